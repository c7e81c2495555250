"""a study: a table of named overrides of one config, times seeds -> CSV, table with paired tests, picture.

The config file of a study has `get_config()`, the run that all rows change; `ROWS`, pairs of a name and of
what it overrides; and `SEEDS`, how many. A row is added by adding a line. A value "row:NAME" is the workdir
of that row's run with the same seed, for a teacher or a starting point. Rows are compared with the first one,
or with the one that `AGAINST` names; with `SPIKES = True` the spikes of each run are counted.

What is done is skipped when the command is run again; a run that fails is written down and the others go on.
With --parallel=N, or where the command is given N times, in any places that share the workdir, N runs are
trained at a time.
"""

import contextlib
import csv
import io
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from launch.flags import DEFINED_OFTEN, GIVEN_CONFIG, define_config, define_path
from launch.information import information
from launch.workers import run_together
from qsdt_jax import bounds
from qsdt_jax.assemble.build import build_run
from qsdt_jax.data.classes import named
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.comparison import Row, draw, markdown
from qsdt_jax.experiment.run import make_run
from qsdt_jax.experiment.study import (
    SPIKES_FILE,
    Study,
    Trial,
    Variant,
    is_done,
    read_study,
    read_summary,
)
from qsdt_jax.experiment.teachers import check_pair, with_teacher
from qsdt_jax.files import locked, write_atomically
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.metric import Metric
from qsdt_jax.nearest import nearest
from qsdt_jax.processes.preemption import POLL_SECONDS, Preempted, Preemption
from qsdt_jax.progress import tell
from qsdt_jax.retry import reason
from qsdt_jax.train.loop import train
from qsdt_jax.workdir.nicety import nicety
from qsdt_jax.workdir.workdir import CONFIG_FILE

CONFIG = define_config()
WORKDIR = define_path("workdir", "directory of the study")
SEEDS = flags.DEFINE_integer("seeds", None, "number of seeds of each row, in place of the config's")
PARALLEL = flags.DEFINE_integer(
    "parallel", 1, "processes that train runs at the same time, each on one accelerator where there are some"
)
ONLY = flags.DEFINE_multi_string(
    "only", [], "a row to run, may be repeated; all unless given", **DEFINED_OFTEN
)

FAILURE_FILE = "failure.txt"
RESULTS_LOCK = "results.lock"
SECONDS_FILE = "seconds.json"
# Columns of results.csv, with the metric of the study after the seed.
CSV_RUN = ("row", "seed")
CSV_FACTS = ("images_per_second", "seconds", "spikes", "parameters", "commit", "failure")


def main() -> None:
    """Runs what is left of the study and writes its results."""
    if CONFIG.value is None or not WORKDIR.value:
        raise UserError("ablate needs --config FILE and --workdir DIR")
    for flag, value in (("parallel", PARALLEL.value), ("seeds", SEEDS.value)):
        if value is not None and value < 1:
            raise UserError(f"--{flag}={value} must be at least 1")
        if value is not None and value > bounds.WORKERS:
            raise UserError(f"--{flag}={value} must be at most {bounds.WORKERS}")
    if PARALLEL.value > 1:  # The accelerators are for the processes that this one starts.
        jax.config.update("jax_platforms", "cpu")
    file = GIVEN_CONFIG.name
    study = read_study(f"--config {file}", GIVEN_CONFIG.module, CONFIG.value, Path(WORKDIR.value))
    study = study._replace(seeds=SEEDS.value or study.seeds)
    names = ONLY.value or list(study.variants)
    for name in names:
        if name not in study.variants:
            raise UserError(f"--only: no row {name!r}{nearest(name, list(study.variants))}")
    left = [run for run in study.in_order(names) if not is_done(study, *run)]
    for name in dict.fromkeys(variant.name for variant, _ in left):
        check(study, study.variants[name])
    title = Path(file).stem
    if left and PARALLEL.value > 1:
        run_together(PARALLEL.value, [*sys.argv[1:], "--parallel=1"], study.workdir)
    else:
        work(study, left, title)
    print(write_results(study, title))
    print(f"{study.workdir}: results.csv, results.md, results.png, runs")


def work(study: Study, left: Sequence[Trial], title: str) -> None:
    """Trains what is left, one run at a time, beside any other processes that do the same.

    A run is taken by its lock, which a process that dies gives back, and not before those whose workdirs it
    reads have ended. So this returns when nothing is left to be trained by anyone.

    Raises:
      Preempted: a signal came.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(study.workdir / "compiled"))
    waiting, begun, row = list(left), time.time(), ""
    with Preemption() as preemption:
        while waiting:
            preemption.check()
            for variant, seed in waiting:
                if any((other, seed) in waiting for other in study.needed_by(variant)):
                    continue
                with _claimed(study.run_folder(variant, seed)) as mine:
                    if not mine:
                        continue
                    waiting.remove((variant, seed))
                    if not _ended(study, variant, seed, since=begun):
                        number = len(left) - len(waiting)
                        what = f"run {number} of {len(left)}: {variant.name}, seed {seed}"
                        tell(what)
                        if variant.name != row:
                            row = variant.name
                            jax.clear_caches()  # No row uses another's programs, 300 MB each.
                        train_one(study, variant, seed)
                        write_results(study, title)
                break
            else:
                time.sleep(POLL_SECONDS)  # Others are at all of them.


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether this process, and no other, may train the run of a folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder.with_suffix(".lock")))
        except BlockingIOError:
            yield False
        else:
            yield True


def _ended(study: Study, variant: Variant, seed: int, since: float) -> bool:
    """Whether a run is done, or has failed in another process after this one began."""
    failure = study.run_folder(variant, seed) / FAILURE_FILE
    return is_done(study, variant, seed) or (failure.exists() and failure.stat().st_mtime >= since)


def check(study: Study, variant: Variant) -> None:
    """Refuses a row whose values do not make a run, as far as that shows before its teacher is trained."""
    config = study.config(variant, 0)
    teacher = study.referred(variant.overrides.get("distill.teacher"))
    try:
        run = build_run(config)
        if teacher is None:
            with_teacher(config, run.task, run.total_steps)
        else:
            other = study.config(teacher, 0)
            names = build_run(other).task.class_names or ()
            classes = named(f"the teacher, row {teacher.name!r},", names)
            check_pair(config, run.task.class_names, other, classes)
    except UserError as error:
        raise UserError(f"row {variant.name!r}: {error}") from None


def train_one(study: Study, variant: Variant, seed: int) -> None:
    """Trains one run, or writes down why that failed; raises Preempted as training does."""
    folder, start = study.run_folder(variant, seed), time.monotonic()
    resumed = (folder / CONFIG_FILE).exists()
    try:
        train(make_run(study.config(variant, seed), folder), folder)
        if not resumed:  # The time of a resumed run is not known.
            write_atomically(folder / SECONDS_FILE, json.dumps(time.monotonic() - start) + "\n")
        if study.spikes:
            spikes = information(load_trained(folder), "test").spikes
            write_atomically(folder / SPIKES_FILE, json.dumps(sum(spikes.values())) + "\n")
    except Preempted:
        raise
    except Exception as error:  # Whatever it is, the other rows are worth having.
        tell(f"error: {variant.name}, seed {seed}: {error}")
        folder.mkdir(parents=True, exist_ok=True)
        whole = str(error) if isinstance(error, UserError) else traceback.format_exc()
        write_atomically(folder / FAILURE_FILE, whole + "\n")
        return
    (folder / FAILURE_FILE).unlink(missing_ok=True)


def write_results(study: Study, title: str) -> str:
    """Writes results.csv, results.md and results.png of what there is, and returns the table."""
    with locked(study.workdir / RESULTS_LOCK, wait=True):
        return _write_results(study, title)


def _write_results(study: Study, title: str) -> str:
    records = [
        _record(study, variant, seed) for variant in study.variants.values() for seed in range(study.seeds)
    ]
    metric, stream = study.metric, io.StringIO(newline="")
    writer: csv.DictWriter[str] = csv.DictWriter(stream, _columns(metric))
    writer.writeheader()
    writer.writerows(record for record in records if record[metric.name] != "" or record["failure"])
    write_atomically(study.workdir / "results.csv", stream.getvalue())
    rows = [
        _row(name, metric, [record for record in records if record["row"] == name]) for name in study.variants
    ]
    columns = {"images/s": _rates(records)}
    if study.spikes:
        columns["spikes an image"] = _means(records, "spikes")
    heading = f"{study.base.eval.splits[0]} {metric.label}"
    heading += "" if metric.larger_is_better else ", smaller is better"
    table = markdown(rows, heading, columns, study.against, form=metric.form)
    write_atomically(study.workdir / "results.md", table)
    with nicety("results.png cannot be drawn"):
        draw(rows, heading, title, study.workdir / "results.png")
    return table


def _columns(metric: Metric) -> tuple[str, ...]:
    return (*CSV_RUN, metric.name, *CSV_FACTS)


def _record(study: Study, variant: Variant, seed: int) -> dict[str, Any]:
    folder = study.run_folder(variant, seed)
    record: dict[str, Any] = {**dict.fromkeys(_columns(study.metric), ""), "row": variant.name, "seed": seed}
    try:
        summary = read_summary(study, variant, seed)
    except UserError as error:  # It belongs into no table, but the others do.
        record["failure"] = str(error)
        return record
    if summary is not None:
        record[study.metric.name] = summary["final"][study.metric.logged]
        record |= {name: summary[name] for name in ("images_per_second", "parameters", "commit")}
        for name, file in (("seconds", SECONDS_FILE), ("spikes", SPIKES_FILE)):
            if (folder / file).exists():
                record[name] = _number(folder / file)
    elif (folder / FAILURE_FILE).exists():
        record["failure"] = (folder / FAILURE_FILE).read_text().strip().splitlines()[-1]
    return record


def _number(file: Path) -> float | str:
    """The number in a file; nothing, with a line that says so, where it holds none."""
    try:
        number = json.loads(file.read_text())
        if type(number) in (int, float):
            return number
        found = f"found {number!r}"
    except (OSError, ValueError) as error:
        found = reason(error)
    tell(f"{file}: expected a number ({found}), which the table lacks; remove it and run the study again")
    return ""


def _row(name: str, metric: Metric, records: list[dict[str, Any]]) -> Row:
    scores = {record["seed"]: record[metric.name] for record in records if record[metric.name] != ""}
    return Row(name=name, scores=scores, failures=sum(bool(record["failure"]) for record in records))


def _means(records: list[dict[str, Any]], field: str) -> dict[str, str]:
    values: dict[str, list[float]] = {}
    for record in records:
        if record[field] != "":
            values.setdefault(record["row"], []).append(record[field])
    return {name: f"{sum(found) / len(found):,.0f}" for name, found in values.items()}


def _rates(records: list[dict[str, Any]]) -> dict[str, str]:
    """The fastest seed of each row: what else runs on a machine only slows a run down."""
    rates: dict[str, float] = {}
    for record in records:
        rates[record["row"]] = max(rates.get(record["row"], 0.0), record["images_per_second"] or 0.0)
    return {name: f"{rate:,.0f}" for name, rate in rates.items() if rate}
