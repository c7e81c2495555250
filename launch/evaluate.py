"""evaluate a checkpoint on a split: every image once, as training does it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.flags import DEFINED_OFTEN, define_path, require_writable
from qsdt_jax.errors import UserError

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.assemble.trained import Trained

WORKDIR = define_path("workdir", "directory of a run or an import")
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
SPLIT = flags.DEFINE_enum("split", "test", ["test", "train"], "split of the data", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
JSON = define_path("json", "file that gets the metrics as JSON")


def main() -> None:
    """Evaluates as the flags say and prints one line for each metric."""
    from qsdt_jax.assemble.trained import load_trained

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
    """The metrics of the "test" or "train" split on all devices, by training's step.

    Counts are those that training has logged, on however many devices; sums of real numbers are to rounding.

    Raises:
      UserError: the data cannot be read, or have other classes than the network.
    """
    from qsdt_jax.assemble.split import Split
    from qsdt_jax.evaluate.split import evaluate_split
    from qsdt_jax.train.step import evaluation_step

    found = Split(trained.config, split, trained.classes)
    title = f"{trained.workdir}: step {trained.step}, {found.images:,} images of the {found.name} split"
    step = found.parallel.evaluation_step(evaluation_step)
    variables, task = found.parallel.put_everywhere((trained.variables, trained.task))
    return evaluate_split(
        lambda batch: step(variables, batch, task), found.batches("evaluated", title), task.summarize
    )
