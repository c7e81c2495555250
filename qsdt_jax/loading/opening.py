"""`qsdt_jax.load`: a network from wherever one was left."""

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qsdt_jax.answers.answering import Answering
from qsdt_jax.answers.classes import Predictions
from qsdt_jax.answers.maps import ClassMaps
from qsdt_jax.answers.objects import Detections
from qsdt_jax.answers.pictures import Picture
from qsdt_jax.assemble.network import require_network
from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.data.classes import Classes
from qsdt_jax.data.preprocess import ImagePreprocessing, Preprocessing
from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.program import Program
from qsdt_jax.deploy.reference import MAGIC
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded, read_json
from qsdt_jax.loading.deployed import Deployed, load_deployed
from qsdt_jax.loading.opened import Network, predict, predict_events
from qsdt_jax.loading.published import of_published
from qsdt_jax.loading.saving import MODEL_FILE, load_saved
from qsdt_jax.loading.trained import Trained, load_trained
from qsdt_jax.tasks.task import Batch
from qsdt_jax.workdir.stored import stored_metrics
from qsdt_jax.workdir.workdir import CHECKPOINT_FOLDER, CONFIG_FILE, SUMMARY_FILE

PUBLISHED = "published checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DeployedNetwork:
    """A bundle, ready to predict; it has no parts that can be trained.

    Attributes:
      deployed: what the file holds.
      model: the folded network.
      variables: None; weights are in the model.
    """

    deployed: Deployed
    variables: None = None

    @property
    def where(self) -> str:
        return self.deployed.title

    @property
    def model(self) -> Program | FoldedDetector:
        return self.deployed.bundle.program

    @property
    def classes(self) -> Classes:
        return self.deployed.classes

    @property
    def title(self) -> str:
        return self.where

    @property
    def inputs(self) -> Preprocessing:
        """From images or events to inputs."""
        return self.deployed.inputs

    @property
    def preprocess(self) -> ImagePreprocessing:
        """From an image to an input."""
        return self.deployed.preprocess

    @property
    def channels(self) -> int:
        return self.deployed.channels

    @property
    def answering(self) -> Answering:
        """How it answers for images."""
        return self.deployed.answering

    def outputs(self, batch: Batch) -> Any:
        """As of `loading.deployed.Deployed`."""
        return self.deployed.outputs(batch)

    def predict(self, images: Picture | Iterable[Picture]) -> Predictions | ClassMaps | Detections:
        """As of `loading.opened.Network`, in integers."""
        return predict(self, images)

    def predict_events(
        self,
        files: str | Path | Iterable[str | Path],
        *,
        sensor_size: tuple[int, ...] = (),
        on_its_side: bool | None = None,
    ) -> Predictions:
        """As of `loading.opened.Network`, in integers."""
        return predict_events(self, files, sensor_size, on_its_side)

    def features(self, images: Any) -> Any:
        """Raises UserError: a folded network has no stages."""
        raise UserError(f"{self.where} is a bundle, which gives no features; load the workdir it was made of")


def load(
    path: str | Path, *, step: str | int = "latest", ema: bool = False, **fields: Any
) -> Network | DeployedNetwork:
    """Opens a network.

    Nothing of a file is run. Only a workdir whose configuration names a task of its own, "module:NAME",
    imports that module, from where Python finds it.

    Args:
      path: the workdir of a run or an import; a folder that `save` wrote; a bundle (.qsdt); or a published
        PyTorch checkpoint (.pth).
      step: of a workdir: "latest", "best" or a number.
      ema: of a workdir or a .pth: take the moving average of the variables.
      fields: of a .pth, what its tensors do not tell: keys of `config.model` such as bits=4, levels=4,
        timesteps=1 or num_heads=8, where they are not these.

    Returns:
      An object with `predict(images)`, `predict_events(files)`, `features(images)`, `model`, `variables` and
      `preprocess`.

    Raises:
      UserError: nothing there, nothing that is known, damaged, of another network; options that do not apply.
    """
    path = Path(expanded(str(path)))
    kind = kind_of_file(path)
    for option, value, default, kinds in (
        ("step", step, "latest", ("workdir",)),
        ("ema", ema, False, ("workdir", PUBLISHED)),
        ("fields", fields, {}, (PUBLISHED,)),
    ):
        if value != default and kind not in kinds:
            named = ", ".join(fields) if option == "fields" else option
            raise UserError(f"{path} is a {kind}: it has no choice of {named}")
    match kind:
        case "workdir":
            return _of_workdir(path, str(step), ema)
        case "saved network":
            return load_saved(path)
        case "bundle":
            return DeployedNetwork(deployed=load_deployed(path))
        case _:
            return of_published(path, fields, ema=ema)


def kind_of_file(path: Path) -> str:
    """What lies there, by what it contains and not by its name."""
    if path.is_dir():
        if (path / CHECKPOINT_FOLDER).is_dir():
            return "workdir"
        if (path / MODEL_FILE).exists():
            return "saved network"
        raise UserError(
            f"{path} holds no network: expected {CONFIG_FILE} with {CHECKPOINT_FOLDER} (a run) "
            f"or with {MODEL_FILE} (a saved network); found {_listed(path)}"
        )
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or folder") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if start == MAGIC or path.suffix == ".qsdt":
        return "bundle"
    if start.startswith(b"PK") or path.suffix in (".pth", ".pt", ".bin", ".tar"):
        return PUBLISHED
    raise UserError(f"{path} is neither a bundle (.qsdt) nor a PyTorch checkpoint (.pth)")


def _listed(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"


def _of_workdir(path: Path, step: str, ema: bool) -> Network:
    trained = load_trained(path, step=step, ema=ema)
    require_network(trained.task.model, str(path))
    return Network(
        where=trained.title,
        config=trained.config,
        task=trained.task,
        variables=trained.variables,
        classes=trained.require_classes(),
        origin={"step": trained.step, "ema": ema, **_told_by_run(trained)},
    )


def _told_by_run(trained: Trained) -> dict[str, Any]:
    """What a run says of one of its checkpoints: {"scores": ..., "commit": ...}, as far as it is known."""
    told: dict[str, Any] = {}
    if scores := _scores(trained):
        told["scores"] = scores
    with contextlib.suppress(UserError, FileNotFoundError):
        summary = read_json(trained.workdir / SUMMARY_FILE)
        if isinstance(summary, dict) and isinstance(summary.get("commit"), str):
            told["commit"] = summary["commit"]
    return told


def _scores(trained: Trained) -> dict[str, float]:
    """Those of the variables that were opened and of no others, {"test top-1 (%)": 98.6, ...}."""
    stored = stored_metrics(trained.workdir / CHECKPOINT_FOLDER, trained.step) or {}
    splits, prefix = trained.config.eval.splits, "eval_ema" if trained.ema else "eval"
    metrics = task_factory(trained.config.task.name).metrics
    names = {
        f"{prefix if i == 0 else f'{prefix}_{split}'}/{metric.name}": f"{split} {metric.label}"
        for i, split in enumerate(splits)
        for metric in metrics
    }
    return {label: stored[name] for name, label in names.items() if name in stored}
