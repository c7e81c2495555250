"""evaluate a checkpoint on a split: every image once, as training does it."""

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.flags import DEFINED_OFTEN, require_writable
from qsdt_jax.errors import UserError

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from launch.trained import Trained
    from qsdt_jax.progress import Progress

WORKDIR = flags.DEFINE_string("workdir", None, "directory of a run or an import", **DEFINED_OFTEN)
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
SPLIT = flags.DEFINE_enum("split", "test", ["test", "train"], "split of the data", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
JSON = flags.DEFINE_string("json", None, "file that gets the metrics as JSON", **DEFINED_OFTEN)


def main() -> None:
    """Evaluates as the flags say and prints one line for each metric."""
    from launch.trained import load_trained

    if WORKDIR.value is None:
        raise UserError("eval needs --workdir DIR")
    if JSON.value:
        require_writable("json", JSON.value)
    trained = load_trained(WORKDIR.value, step=STEP.value, ema=EMA.value)
    metrics = evaluate(trained, SPLIT.value)
    for name, value in metrics.items():
        print(f"{name} {value:.6g}")
    if JSON.value:
        result = {"workdir": str(trained.workdir), "step": trained.step, "split": SPLIT.value}
        Path(JSON.value).write_text(json.dumps({**result, "ema": EMA.value, **metrics}) + "\n")


def evaluate(trained: "Trained", split: str) -> dict[str, float]:
    """The metrics of the "test" or "train" split, in training's batches and so equal to what it logged.

    Raises:
      UserError: the data cannot be read, or have another number of classes than the network.
    """
    import jax

    from launch.build import build_preprocess, build_source
    from qsdt_jax.data.pipeline import evaluation_batches
    from qsdt_jax.evaluate.split import evaluate_split
    from qsdt_jax.progress import Progress
    from qsdt_jax.train.step import evaluation_step

    config = trained.config
    source = build_source(config, split)
    classes, outputs = len(source.class_names), len(trained.class_names)
    if classes != outputs:
        raise UserError(f"the {split} split has {classes} classes, but the network has {outputs}")
    size = config.eval.batch_size
    if size < 1:
        raise UserError(f"config.eval.batch_size={size} must be at least 1")
    batches = evaluation_batches(source, build_preprocess(config).evaluate, batch_size=size)
    step = functools.partial(jax.jit(evaluation_step, static_argnames="task"), task=trained.task)
    progress = Progress(-(-len(source) // size), 0, size)
    progress.say(f"{trained.workdir}: step {trained.step}, {len(source):,} images of the {split} split")
    try:
        return evaluate_split(
            functools.partial(step, trained.variables), _shown(batches, progress), trained.task.summarize
        )
    finally:
        progress.close()


def _shown(batches: Iterable[Any], progress: "Progress") -> Iterator[Any]:
    """The batches, each counted when it has been evaluated."""
    for number, batch in enumerate(batches, start=1):
        yield batch
        progress.update(number, "evaluated")
