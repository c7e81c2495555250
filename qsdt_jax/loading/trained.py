"""A trained network as it stands in a workdir: configuration, task, variables and class names."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qsdt_jax.answers.answering import Answering
from qsdt_jax.assemble.build import plain
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.network import require_classifier
from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.data.classes import Classes
from qsdt_jax.data.preprocess import ImagePreprocessing
from qsdt_jax.errors import UserError
from qsdt_jax.interop.fit import check_fit
from qsdt_jax.models import Classifier
from qsdt_jax.tasks.task import Batch, Task, Variables, variable_shapes
from qsdt_jax.workdir.checkpoint import restore_raw
from qsdt_jax.workdir.integrity import state_checksum
from qsdt_jax.workdir.stored import best_step, exactly, read_record
from qsdt_jax.workdir.workdir import (
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    DATA_FILE,
    completed,
    read_belongings,
    read_config,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a workdir holds at one step.

    Attributes:
      workdir: where it was read.
      step: of the checkpoint.
      ema: whether the variables are the moving average.
      config: of the run.
      task: with the model, its number of classes taken from the checkpoint.
      variables: "params" and "batch_stats", or their moving average.
      classes: what is known of them; None where its outputs are no classes.
      checksum: of the checkpoint, for `workdir.Source`.
    """

    workdir: Path
    step: int
    ema: bool
    config: ml_collections.ConfigDict
    task: Task
    variables: Variables
    classes: Classes | None
    checksum: int

    @property
    def title(self) -> str:
        return f"{self.workdir}, step {self.step}"

    @property
    def channels(self) -> int:
        return self.config.data.channels

    @property
    def preprocess(self) -> ImagePreprocessing:
        """Of image files; raises UserError where the network takes events."""
        preprocess = build_preprocess(self.config)
        if not isinstance(preprocess, ImagePreprocessing):
            raise UserError(f"expected a network of images, but the one in {self.workdir} takes events")
        return preprocess

    @property
    def classifier(self) -> Classifier:
        """Its network, to look inside of; raises UserError where the task has a network of its own."""
        return require_classifier(self.task.model, str(self.workdir))

    def require_classes(self) -> Classes:
        """What is known of its classes; raises UserError where it has none."""
        if self.classes is None:
            name = self.config.task.name
            raise UserError(f"the network in {self.workdir} tells no classes apart, its task being {name!r}")
        return self.classes

    @property
    def answering(self) -> Answering | None:
        """How it answers for images; None where its task does not say."""
        return task_factory(self.config.task.name).answering

    def outputs(self, batch: Batch) -> Any:
        """What its task makes of inputs, see `outputs`."""
        return outputs(self.task, self.variables, batch)


@jax.jit
def outputs(task: Task, variables: Variables, batch: Batch) -> Any:
    """See `tasks.task.Task.outputs`; compiled once for equal tasks and batches of one shape."""
    return task.outputs(variables, batch)


def load_trained(workdir: str | Path, *, step: str = "latest", ema: bool = False) -> Trained:
    """A network from a workdir, of which nothing is changed.

    Args:
      workdir: of a training run or an import.
      step: "latest" for the newest valid checkpoint, "best", or a number.
      ema: whether to take the moving average of the variables.

    Raises:
      UserError: no workdir, no such step, a damaged checkpoint or one that does not fit the configuration,
        no moving average.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"workdir {workdir}: no such directory")
    config = stored_config(workdir)
    use_float64_if_asked(config)
    found, state = restore_raw(workdir / CHECKPOINT_FOLDER, _step_number(workdir, step, config))
    checksum = stored_checksum(workdir, found)
    variables = state.get("ema" if ema else "variables")
    if variables is None:
        raise UserError(f"workdir {workdir} keeps no moving average: config.ema_decay={config.ema_decay}")
    classes, names = _classes(workdir, config, variables)
    task = task_factory(config.task.name).build(config, names)
    check_fit(
        f"the checkpoint in {workdir}",
        _kinds(variable_shapes(task)),
        _kinds(variables),
        what=f"its {CONFIG_FILE}",
    )
    return Trained(
        workdir=workdir,
        step=found,
        ema=ema,
        config=config,
        task=task,
        variables=jax.tree.map(jnp.asarray, variables),
        classes=classes,
        checksum=checksum,
    )


def stored_checksum(workdir: str | Path, step: int) -> int:
    """Of the checkpoint of a step, by its record alone; raises UserError where it is missing or damaged."""
    directory = Path(workdir) / CHECKPOINT_FOLDER
    return exactly(directory, step, lambda step: state_checksum(read_record(directory, step)["leaves"]))


def stored_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The configuration of a workdir; keys that it lacks, being older, have their defaults.

    Raises:
      UserError: there is none, or a key is unknown or of another type than its default.
    """
    config, file = base_config().lock(), Path(workdir) / CONFIG_FILE
    stored = completed(read_config(workdir), plain(config), file)
    try:
        config.update(stored)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error.args[0] if error.args else error).split(" Other fields present")[0]
        raise UserError(f"{file} is not of this version: {reason}") from None
    try:
        check_config(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return config


def use_float64_if_asked(config: ml_collections.ConfigDict) -> None:
    """Lets JAX have 64-bit numbers where the configuration computes in them."""
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)


def _step_number(workdir: Path, step: str, config: ml_collections.ConfigDict) -> int | None:
    """None for the newest."""
    match step:
        case "latest":
            return None
        case "best":
            metric = task_factory(config.task.name).metrics[0]
            best = best_step(workdir / CHECKPOINT_FOLDER, metric.logged, metric.larger_is_better)
            if best is None:
                raise UserError(f"workdir {workdir} has no best step: no stored checkpoint was evaluated")
            return best
        case _ if step.isdecimal():
            return int(step)
        case _:
            raise UserError(f"step {step!r} is none of latest, best, or a number from 0 on")


def _classes(
    workdir: Path, config: ml_collections.ConfigDict, variables: Variables
) -> tuple[Classes | None, Sequence[str] | None]:
    """What is known of the classes, and names to build the task with: numbers where they are not known."""
    names, count = read_belongings(workdir).class_names, task_factory(config.task.name).class_count
    if count is None:
        return None, names
    outputs = count(variables)
    if outputs is None:
        raise UserError(f"the checkpoint in {workdir} is of no classifier: it has no head")
    if names is not None and len(names) != outputs:
        raise UserError(
            f"{workdir / DATA_FILE}: expected {outputs} class names, one for each output; found {len(names)}"
        )
    where = f"the network in {workdir}"
    classes = Classes(where=where, outputs=outputs, names=None if names is None else tuple(names))
    return classes, classes.shown


def _kinds(tree: Mapping[str, Any]) -> dict[str, str]:
    """Type and shape of each leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }
