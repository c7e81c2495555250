"""Networks as their spikes are measured: folded where they can be, on images prepared as each takes them."""

from collections.abc import Callable
from pathlib import Path

import ml_collections

from qsdt_jax.assemble.examples import ANNOTATED, OBJECTS
from qsdt_jax.assemble.split import Split
from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.deploy.bundle import Bundle
from qsdt_jax.energy.rates import Activity, measure_activity
from qsdt_jax.energy.unfolded import Unfolded, is_spiking
from qsdt_jax.errors import UserError
from qsdt_jax.loading.deployed import Deployed, bundle_of, load_deployed, with_inputs_of
from qsdt_jax.loading.trained import Trained, load_trained
from qsdt_jax.progress import tell
from qsdt_jax.verification.comparison import Unscored


def folded_or_trained(trained: Trained) -> Bundle | Unfolded:
    """The bundle of a workdir, or the network itself if it spikes and cannot be folded; this is told.

    Raises:
      UserError: it can neither be folded nor be measured as it is trained.
    """
    try:
        return bundle_of(trained)
    except UserError as error:
        if not is_spiking(trained.task.model):
            raise
        tell(f"measured as it is trained: {error}")
    height, width = trained.config.data.image_size
    return Unfolded(model=trained.task.model, variables=trained.variables, image_size=(height, width))


def prepared_for(deployed: Deployed, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A configuration whose data become inputs as a bundle takes them.

    Raises:
      UserError: its data are of another task, or have another number of channels.
    """
    examples = task_factory(config.task.name).examples
    of_detector = deployed.bundle.settings is not None
    fits = (examples is OBJECTS) == of_detector
    if not fits or (examples is ANNOTATED) != deployed.of_pixels:
        pixels_or_images = "pixels" if deployed.of_pixels else "images"
        gives = "finds objects" if of_detector else f"tells classes of {pixels_or_images}"
        raise UserError(
            f"{deployed.path} {gives}, but the configuration of its data has "
            f"config.task.name={config.task.name!r}"
        )
    return with_inputs_of(deployed, config)


def firing_beside(
    where: str, config: ml_collections.ConfigDict, split: str, images: int | None
) -> Callable[[], Activity]:
    """What measures how another network fires on the images of a configuration, prepared as it takes them.

    Args:
      where: a workdir, of which the newest checkpoint counts, or the file of a bundle.
      config: names the data.
      split: of the data.
      images: how many from its start; None for all.

    Raises:
      UserError: there is none, or it does not fit the data. That is told before anything is measured.
    """
    if not Path(where).exists():
        raise UserError(f"{where} is not there; expected a workdir or a bundle")
    if Path(where).is_dir():
        trained = load_trained(where)
        as_trained = _as_trained(trained, config)  # Before it is folded: what does not fit is told at once.
        network = folded_or_trained(trained)
        if isinstance(network, Unfolded):
            data = Split(as_trained, split, None, images)
            return lambda: measure_activity(network, data.batches("beside"), Unscored())
        deployed = Deployed(path=Path(where), bundle=network)
    else:
        deployed = load_deployed(where)
    bundle, data = deployed.bundle, Split(prepared_for(deployed, config), split, None, images)
    return lambda: measure_activity(
        bundle.program, data.batches("beside"), Unscored(), settings=bundle.settings
    )


def _as_trained(trained: Trained, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration whose data become inputs as those of a classifier's workdir do.

    Raises:
      UserError: its data are of another task, or have another number of channels.
    """
    own = trained.config
    if task_factory(config.task.name).examples is not task_factory(own.task.name).examples:
        raise UserError(
            f"{trained.workdir} has config.task.name={own.task.name!r}, but the data's configuration has "
            f"{config.task.name!r}"
        )
    if own.data.channels != config.data.channels:
        raise UserError(
            f"{trained.workdir} takes {own.data.channels} channels, but the data's configuration has "
            f"config.data.channels={config.data.channels}"
        )
    config = config.copy_and_resolve_references()
    for key in ("image_size", "mean", "std", "eval_crop_ratio"):
        config.data[key] = own.data[key]
    config.model.timesteps = own.model.timesteps
    return config
