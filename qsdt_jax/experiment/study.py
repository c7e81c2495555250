"""A study: its config file read and checked, its runs, and where each of them stands.

The config file has `get_config()`, the run that all rows change; `ROWS`, pairs of a name and of what it
overrides; and `SEEDS`, how many. A value "row:NAME" is the workdir of that row's run with the same seed.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from qsdt_jax.assemble.build import plain
from qsdt_jax.assemble.data import build_training_source, class_names_of
from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.configuration.keys import config_keys
from qsdt_jax.errors import UserError
from qsdt_jax.experiment.sources import sources_now
from qsdt_jax.files import read_json
from qsdt_jax.metric import Metric
from qsdt_jax.nearest import nearest
from qsdt_jax.workdir.older_config import renamed
from qsdt_jax.workdir.stored import stored_steps
from qsdt_jax.workdir.workdir import (
    CHECKPOINT_FOLDER,
    SUMMARY_FILE,
    Belongings,
    Source,
    Workdir,
    completed,
    read_belongings,
    read_config,
    run_differences,
)

ROW_PREFIX = "row:"
SPIKES_FILE = "spikes.json"  # Of a run, where its study counts them.


class Variant(NamedTuple):
    """One row of a study."""

    name: str
    overrides: Mapping[str, Any]

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")


Trial = tuple[Variant, int]  # One run of a row: with the seed.


class Study(NamedTuple):
    """A table of overrides, times seeds; `base` is what they change."""

    base: ml_collections.ConfigDict
    variants: Mapping[str, Variant]
    seeds: int
    against: Mapping[str, str]
    spikes: bool
    workdir: Path

    @property
    def metric(self) -> Metric:
        """The number of a run that its rows are compared by."""
        return task_factory(self.base.task.name).metrics[0]

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
        try:
            check_config(config)
        except UserError as error:
            raise UserError(f"row {variant.name!r}: {error}") from None
        return config

    def referred(self, value: Any) -> Variant | None:
        """The row that a value "row:NAME" names."""
        name = _reference(value)
        return None if name is None else self.variants[name]

    def needed_by(self, variant: Variant) -> list[Variant]:
        """The rows whose workdirs a row reads, seed by seed."""
        return [row for row in map(self.referred, variant.overrides.values()) if row is not None]

    def in_order(self, names: list[str]) -> Iterator[Trial]:
        """All runs of some rows, seeds of a row together, a row after those whose workdirs it reads."""
        seen: list[str] = []

        def visit(variant: Variant) -> None:
            if variant.name not in seen:
                for other in self.needed_by(variant):
                    visit(other)
                seen.append(variant.name)

        for name in names:
            visit(self.variants[name])
        return ((self.variants[name], seed) for name in seen for seed in range(self.seeds))


def read_study(what: str, module: Any, base: ml_collections.ConfigDict, workdir: Path) -> Study:
    """The study of a config file.

    Args:
      what: what the file is called in errors.
      module: what running the file has given.
      base: the run that all rows change.
      workdir: of the study.

    Raises:
      UserError: no rows, two rows of one name, a misspelt key, a reference to no row or in a circle.
    """
    rows, seeds = getattr(module, "ROWS", None), getattr(module, "SEEDS", None)
    if not rows or not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"{what} is no study: it needs ROWS, pairs (name, overrides), and SEEDS")
    variants: dict[str, Variant] = {}
    folders: dict[str, str] = {}
    for row in rows:
        if not (len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], Mapping)):
            raise UserError(f"{what}: a row is a pair (name, overrides); found {row!r}")
        variant = Variant(*row)
        if variant.name in variants:
            raise UserError(f"{what}: two rows have the name {variant.name!r}")
        if variant.folder in folders:
            other = folders[variant.folder]
            raise UserError(f"{what}: the rows {other!r} and {variant.name!r} have the same folder")
        variants[variant.name], folders[variant.folder] = variant, variant.name
    known = config_keys(base)
    for variant in variants.values():
        for key, value in variant.overrides.items():
            if key not in known or key == "seed":
                raise UserError(
                    f"row {variant.name!r}: unknown config key {key!r}{renamed(key) or nearest(key, known)}"
                )
            if key == "task.name":
                _check_metric(variant, value, base.task.name)
            if key == "eval.splits" and list(value or ())[:1] != list(base.eval.splits)[:1]:
                raise UserError(
                    f"row {variant.name!r}: eval.splits={value!r} is scored on another split than the other "
                    f"rows, which are on {base.eval.splits[0]!r}"
                )
            _check_reference(variant, value, variants)
    against = getattr(module, "AGAINST", {})
    for name in (*against, *against.values()):
        if name not in variants:
            raise UserError(f"AGAINST: there is no row {name!r}{nearest(name, list(variants))}")
    return Study(base, variants, seeds, against, getattr(module, "SPIKES", False), workdir)


def _check_metric(variant: Variant, task: str, base: str) -> None:
    """Refuses a task that is scored otherwise than the other rows'."""
    found, expected = (task_factory(name).metrics[0] for name in (task, base))
    if found != expected:
        raise UserError(
            f"row {variant.name!r}: the task {task!r} is scored by its {found.described}, "
            f"the other rows by their {expected.described}"
        )


def _check_reference(variant: Variant, value: Any, variants: Mapping[str, Variant]) -> None:
    """Refuses a "row:NAME" of no row, or of one that refers to others itself, so there are no circles."""
    name = _reference(value)
    if name is None:
        return
    if name not in variants:
        raise UserError(f"row {variant.name!r}: there is no row {name!r}{nearest(name, list(variants))}")
    if any(_reference(other) is not None for other in variants[name].overrides.values()):
        raise UserError(f"row {variant.name!r}: row {name!r} refers to another row itself")


def _reference(value: Any) -> str | None:
    """NAME of a value "row:NAME"; None for any other."""
    if isinstance(value, str) and value.startswith(ROW_PREFIX):
        return value.removeprefix(ROW_PREFIX)
    return None


def is_done(study: Study, variant: Variant, seed: int) -> bool:
    """Whether a run has ended.

    Raises:
      UserError: what is in its folder, checkpoints or a summary, is of another configuration, or it cannot be
        said of which.
    """
    folder = study.run_folder(variant, seed)
    if stored_steps(folder / CHECKPOINT_FOLDER):
        _require_own(study, variant, seed, read_belongings(folder, _defaults()))
    counted = not study.spikes or (folder / SPIKES_FILE).exists()
    return read_summary(study, variant, seed) is not None and counted


def read_summary(study: Study, variant: Variant, seed: int) -> Mapping[str, Any] | None:
    """The summary of a run; None where it has not ended.

    Raises:
      UserError: it cannot be read, or is of another configuration or other data.
    """
    folder = study.run_folder(variant, seed)
    file = folder / SUMMARY_FILE
    try:
        summary = read_json(file)
    except FileNotFoundError:
        return None
    try:
        stored = dict(summary["config"] if "config" in summary else read_config(folder))
        sources = {key: Source(**source) for key, source in summary.get("sources", {}).items()}
        score = summary["final"][study.metric.logged]
        for value in (score, summary["images_per_second"] or 0, summary["parameters"]):
            if type(value) not in (int, float):
                raise TypeError(f"{value!r} is no number")
        if not isinstance(summary["commit"], str):
            raise TypeError("the commit is no text")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise UserError(f"{file} is no summary of a run ({found}); remove {folder} to run it anew") from None
    _require_own(
        study,
        variant,
        seed,
        Belongings(
            config=completed(stored, _defaults(), file),
            class_names=None,
            training_images=None,
            sources=sources,
        ),
    )
    return summary


def _require_own(study: Study, variant: Variant, seed: int, stored: Belongings) -> None:
    """Refuses what was left by a run of another configuration, or on other data that are named by now."""
    config = study.config(variant, seed)
    now = dataclasses.replace(stored, config=plain(config), sources=sources_now(config, stored.sources))
    if changed := run_differences(stored, now):
        folder = study.run_folder(variant, seed)
        raise UserError(
            f"row {variant.name!r} was run with another configuration in {folder}: {'; '.join(changed)}; "
            "remove the folder to run it anew"
        )
    # The place of the data may be another; what lies there may not.
    if config.data.path and config.data.path != stored.config["data"]["path"]:
        training = build_training_source(config)
        now = dataclasses.replace(now, class_names=class_names_of(training), training_images=len(training))
        try:
            Workdir(study.run_folder(variant, seed)).require(now, _defaults())
        except UserError as error:
            raise UserError(f"row {variant.name!r}: {error}") from None


def _defaults() -> dict[str, Any]:
    return plain(base_config())
