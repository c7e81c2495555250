"""a study: a table of named overrides of one config, times seeds -> CSV, table with paired tests, picture.

The config file of a study has `get_config()`, the run that all rows change; `ROWS`, pairs of a name and of
what it overrides; and `SEEDS`, how many. A row is added by adding a line. A value "row:NAME" is the workdir
of that row's run with the same seed, for a teacher or a starting point. Rows are compared with the first one,
or with the one that `AGAINST` names; with `SPIKES = True` the spikes of each run are counted.

What is done is skipped when the command is run again; a run that fails is written down and the others go on.
"""

import csv
import gc
import importlib.util
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from launch.build import build_run, plain
from launch.flags import DEFINED_OFTEN, closest, config_keys, define_config
from launch.information import information
from launch.run import make_run
from launch.trained import load_trained
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.comparison import Row, draw, markdown
from qsdt_jax.files import write_atomically
from qsdt_jax.train.loop import SUMMARY_FILE, train
from qsdt_jax.train.preemption import Preempted
from qsdt_jax.train.workdir import CONFIG_FILE, config_differences, read_config

CONFIG = define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "directory of the study", **DEFINED_OFTEN)
ONLY = flags.DEFINE_list("only", [], "rows to run; all unless given", **DEFINED_OFTEN)

ROW_PREFIX = "row:"
FAILURE_FILE = "failure.txt"
SECONDS_FILE, SPIKES_FILE = "seconds.json", "spikes.json"
METRIC, METRIC_TITLE = "eval/top1", "test top-1 (%)"
CSV_FIELDS: tuple[str, ...] = (
    "row",
    "seed",
    "top1",
    "images_per_second",
    "seconds",
    "spikes",
    "parameters",
    "commit",
    "failure",
)


class Variant(NamedTuple):
    """One row of a study."""

    name: str
    overrides: Mapping[str, Any]

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")


class Study(NamedTuple):
    """A table of overrides, times seeds; `base` is what they change."""

    base: ml_collections.ConfigDict
    variants: Mapping[str, Variant]
    seeds: int
    against: Mapping[str, str]
    spikes: bool
    workdir: Path

    def run_folder(self, variant: Variant, seed: int) -> Path:
        return self.workdir / "runs" / variant.folder / f"seed{seed}"

    def config(self, variant: Variant, seed: int) -> ml_collections.ConfigDict:
        """The configuration of one run."""
        config = self.base.copy_and_resolve_references().lock()
        overrides = {
            key: str(self.run_folder(teacher, seed)) if (teacher := self.referred(value)) else value
            for key, value in variant.overrides.items()
        }
        try:
            config.update_from_flattened_dict(overrides)
        except (TypeError, ValueError) as error:
            raise UserError(f"row {variant.name!r}: {error.args[0] if error.args else error}") from None
        config.seed = seed
        return config

    def referred(self, value: Any) -> Variant | None:
        """The row that a value "row:NAME" names."""
        name = _reference(value)
        return None if name is None else self.variants[name]

    def in_order(self, names: list[str]) -> Iterator[tuple[Variant, int]]:
        """All runs of some rows, seeds of a row together, a row after those whose workdirs it reads."""
        seen: list[str] = []

        def visit(variant: Variant) -> None:
            if variant.name not in seen:
                for other in filter(None, map(self.referred, variant.overrides.values())):
                    visit(other)
                seen.append(variant.name)

        for name in names:
            visit(self.variants[name])
        return ((self.variants[name], seed) for name in seen for seed in range(self.seeds))


def main() -> None:
    """Runs what is left of the study and writes its results."""
    if CONFIG.value is None or not WORKDIR.value:
        raise UserError("ablate needs --config FILE and --workdir DIR")
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    study = read_study(file, CONFIG.value, Path(WORKDIR.value))
    names = ONLY.value or list(study.variants)
    for name in names:
        if name not in study.variants:
            raise UserError(f"--only: no row {name!r}{closest(name, list(study.variants))}")
    left = [run for run in study.in_order(names) if not is_done(study, *run)]
    for name in dict.fromkeys(variant.name for variant, _ in left):
        check(study, study.variants[name])
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(study.workdir / "compiled"))
    for number, (variant, seed) in enumerate(left, start=1):
        print(f"run {number} of {len(left)}: {variant.name}, seed {seed}", file=sys.stderr, flush=True)
        train_one(study, variant, seed)
        write_results(study, Path(file).stem)
        gc.collect()
    print(write_results(study, Path(file).stem))
    print(f"{study.workdir}: results.csv, results.md, results.png, runs")


def read_study(file: str, base: ml_collections.ConfigDict, workdir: Path) -> Study:
    """The study of a config file.

    Raises:
      UserError: no rows, two rows of one name, a misspelt key, a reference to no row or in a circle.
    """
    module = _module(file)
    rows, seeds = getattr(module, "ROWS", None), getattr(module, "SEEDS", None)
    if not rows or not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"--config {file} is no study: it needs ROWS, pairs (name, overrides), and SEEDS")
    variants: dict[str, Variant] = {}
    folders: dict[str, str] = {}
    for row in rows:
        if not (len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], Mapping)):
            raise UserError(f"--config {file}: a row is a pair (name, overrides); found {row!r}")
        variant = Variant(*row)
        if variant.name in variants:
            raise UserError(f"--config {file}: two rows have the name {variant.name!r}")
        if variant.folder in folders:
            other = folders[variant.folder]
            raise UserError(f"--config {file}: the rows {other!r} and {variant.name!r} have the same folder")
        variants[variant.name], folders[variant.folder] = variant, variant.name
    known = config_keys(base)
    for variant in variants.values():
        for key, value in variant.overrides.items():
            if key not in known or key == "seed":
                raise UserError(f"row {variant.name!r}: unknown config key {key!r}{closest(key, known)}")
            _check_reference(variant, value, variants)
    against = getattr(module, "AGAINST", {})
    for name in (*against, *against.values()):
        if name not in variants:
            raise UserError(f"AGAINST: there is no row {name!r}{closest(name, list(variants))}")
    return Study(base, variants, seeds, against, getattr(module, "SPIKES", False), workdir)


def _check_reference(variant: Variant, value: Any, variants: Mapping[str, Variant]) -> None:
    """Refuses a "row:NAME" of no row, or of one that refers to others itself, so there are no circles."""
    name = _reference(value)
    if name is None:
        return
    if name not in variants:
        raise UserError(f"row {variant.name!r}: there is no row {name!r}{closest(name, list(variants))}")
    if any(_reference(other) is not None for other in variants[name].overrides.values()):
        raise UserError(f"row {variant.name!r}: row {name!r} refers to another row itself")


def _reference(value: Any) -> str | None:
    """NAME of a value "row:NAME"; None for any other."""
    if isinstance(value, str) and value.startswith(ROW_PREFIX):
        return value.removeprefix(ROW_PREFIX)
    return None


def _module(file: str) -> Any:
    spec = importlib.util.spec_from_file_location("study", file.partition(":")[0])
    assert spec is not None and spec.loader is not None  # The flag has loaded it before.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_done(study: Study, variant: Variant, seed: int) -> bool:
    """Whether a run has ended.

    Raises:
      UserError: it was begun with another configuration.
    """
    folder = study.run_folder(variant, seed)
    if (folder / CONFIG_FILE).exists():
        changed = config_differences(read_config(folder), plain(study.config(variant, seed)))
        if changed:
            raise UserError(
                f"row {variant.name!r} was run with another configuration in {folder}: {'; '.join(changed)}"
            )
    return (folder / SUMMARY_FILE).exists()


def check(study: Study, variant: Variant) -> None:
    """Refuses a row whose values do not make a run, as far as that shows before its teacher is trained."""
    try:
        build_run(study.config(variant, 0))
    except UserError as error:
        raise UserError(f"row {variant.name!r}: {error}") from None


def train_one(study: Study, variant: Variant, seed: int) -> None:
    """Trains one run, or writes down why that failed; raises Preempted as training does."""
    folder, start = study.run_folder(variant, seed), time.monotonic()
    try:
        train(make_run(study.config(variant, seed)), folder)
    except Preempted:
        raise
    except Exception as error:  # Whatever it is, the other rows are worth having.
        print(f"error: {variant.name}, seed {seed}: {error}", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        whole = str(error) if isinstance(error, UserError) else traceback.format_exc()
        (folder / FAILURE_FILE).write_text(whole + "\n")
        return
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    (folder / SECONDS_FILE).write_text(json.dumps(time.monotonic() - start) + "\n")
    if study.spikes:
        spikes = information(load_trained(folder), "test").spikes
        (folder / SPIKES_FILE).write_text(json.dumps(sum(spikes.values())) + "\n")


def write_results(study: Study, title: str) -> str:
    """Writes results.csv, results.md and results.png of what there is, and returns the table."""
    records = [
        _record(study, variant, seed) for variant in study.variants.values() for seed in range(study.seeds)
    ]
    with (study.workdir / "results.csv").open("w", newline="") as stream:
        writer: csv.DictWriter[str] = csv.DictWriter(stream, CSV_FIELDS)
        writer.writeheader()
        writer.writerows(record for record in records if record["top1"] != "" or record["failure"])
    rows = [_row(name, [record for record in records if record["row"] == name]) for name in study.variants]
    columns = {"images/s": _rates(records)}
    if study.spikes:
        columns["spikes an image"] = _means(records, "spikes")
    table = markdown(rows, METRIC_TITLE, columns, study.against)
    write_atomically(study.workdir / "results.md", table)
    draw(rows, METRIC_TITLE, title, study.workdir / "results.png")
    return table


def _record(study: Study, variant: Variant, seed: int) -> dict[str, Any]:
    folder = study.run_folder(variant, seed)
    record: dict[str, Any] = {**dict.fromkeys(CSV_FIELDS, ""), "row": variant.name, "seed": seed}
    if (folder / SUMMARY_FILE).exists():
        summary = json.loads((folder / SUMMARY_FILE).read_text())
        record["top1"] = summary["final"][METRIC]
        record |= {name: summary[name] for name in ("images_per_second", "parameters", "commit")}
        for name, file in (("seconds", SECONDS_FILE), ("spikes", SPIKES_FILE)):
            if (folder / file).exists():
                record[name] = json.loads((folder / file).read_text())
    elif (folder / FAILURE_FILE).exists():
        record["failure"] = (folder / FAILURE_FILE).read_text().strip().splitlines()[-1]
    return record


def _row(name: str, records: list[dict[str, Any]]) -> Row:
    scores = {record["seed"]: record["top1"] for record in records if record["top1"] != ""}
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
