"""evaluate a checkpoint on a split: every image once, as training does it."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.flags import DEFINED_OFTEN, define_path, require_writable
from qsdt_jax.errors import UserError
from qsdt_jax.files import write_atomically

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    import numpy as np

    from qsdt_jax.evaluate.split import Scored
    from qsdt_jax.loading.trained import Trained

Table = Mapping[str, Sequence[Any]]
"""Columns of equal length by their titles."""

WORKDIR = define_path("workdir", "directory of a run or an import")
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
SPLIT = flags.DEFINE_enum("split", "test", ["test", "train"], "split of the data", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
CSV = define_path("csv", "CSV file of what the task says of each class")
JSON = define_path("json", "file that gets the metrics as JSON")
RESULTS = define_path("results", "JSON file of the outputs, for other tools: COCO's results of a detector")


def main() -> None:
    """Evaluates as the flags say and prints one line for each metric."""
    from qsdt_jax.assemble.tasks import task_factory
    from qsdt_jax.loading.trained import load_trained

    if WORKDIR.value is None:
        raise UserError("eval needs --workdir DIR")
    for flag in (JSON, CSV, RESULTS):
        if flag.value:
            require_writable(flag.name, flag.value)
    trained = load_trained(WORKDIR.value, step=STEP.value, ema=EMA.value)
    if CSV.value and columns_of_classes(trained) is None:
        raise UserError(
            f"--csv {CSV.value}: config.task.name={trained.config.task.name!r} says nothing of single classes"
        )
    factory = task_factory(trained.config.task.name)
    results = factory.results
    if RESULTS.value and results is None:
        raise UserError(
            f"--results {RESULTS.value}: config.task.name={trained.config.task.name!r} gives no results that "
            "other tools read"
        )
    total, truth = score(trained, SPLIT.value)
    if factory.shared is not None:
        total = factory.shared(total, truth)
    metrics = trained.task.summarize(total, truth)
    table = by_class(trained, total, truth)
    for line in table_lines(table):
        print(line)
    if CSV.value:
        write_table(CSV.value, table)
    if RESULTS.value and results is not None:
        _write(RESULTS.value, json.dumps(results(total, truth)) + "\n")
    for name, value in metrics.items():
        print(f"{name} {value:.6g}")
    if JSON.value:
        result = {"workdir": str(trained.workdir), "step": trained.step, "split": SPLIT.value}
        _write(JSON.value, json.dumps({**result, "ema": EMA.value, **metrics}) + "\n")


def evaluate(trained: "Trained", split: str) -> dict[str, float]:
    """The metrics of the "test" or "train" split; arguments and errors as of `score`."""
    return trained.task.summarize(*score(trained, split))


def score(trained: "Trained", split: str) -> "tuple[Scored, Any]":
    """The score of the "test" or "train" split on all devices, by training's step.

    Counts are those that training has logged, on however many devices; sums of real numbers are to rounding.

    Returns:
      Its sums and rows, and its truth, of which the task makes metrics.

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
    total = evaluate_split(
        lambda batch: step(variables, batch, task), found.batches("evaluated", title), lambda total: total
    )
    return total, found.truth()


def columns_of_classes(trained: "Trained") -> "Callable[[Any, Any], Mapping[str, np.ndarray]] | None":
    """What makes of a score columns of a number for each class; None where the task says nothing of them."""
    from qsdt_jax.assemble.tasks import task_factory

    return None if trained.classes is None else task_factory(trained.config.task.name).by_class


def by_class(trained: "Trained", total: Any, truth: Any) -> Table:
    """What a score says of each class, one column a list; {} where the task says nothing of them."""
    columns = columns_of_classes(trained)
    if columns is None or trained.classes is None:
        return {}
    return {"class": list(trained.classes.shown), **{k: list(v) for k, v in columns(total, truth).items()}}


def table_lines(table: Table) -> list[str]:
    """The table as text; what is no number, as the IoU of a class that nothing has, is a dash."""
    if not table:
        return []
    columns = [[name, *map(_cell, values)] for name, values in table.items()]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return [
        "  ".join([first.ljust(widths[0]), *(v.rjust(w) for v, w in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return " ".join(value.split())
    if math.isnan(value):
        return "-"
    return f"{value:,d}" if isinstance(value, int) or value.dtype.kind in "iu" else f"{value:.2f}"


def write_table(file: str, table: Table) -> None:
    """The table as CSV; what is no number is an empty cell. Raises UserError where it cannot be written."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(table)
    for row in zip(*table.values(), strict=True):
        writer.writerow(["" if value != value else value for value in row])
    _write(file, stream.getvalue())


def _write(file: str, content: str) -> None:
    """Writes a file or, say, a pipe; raises UserError where that fails, e.g. where the disk filled up."""
    path = Path(file).resolve()
    if path.is_file() or not path.exists():
        return write_atomically(path, content)
    try:
        path.write_text(content, encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None
