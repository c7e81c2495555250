"""The working directory of a run: who may write to it, and what its checkpoints belong to."""

import contextlib
import dataclasses
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsdt_jax.data.classes import Classes, class_difference, named
from qsdt_jax.differences import changes
from qsdt_jax.errors import UserError
from qsdt_jax.files import locked, read_json, write_atomically
from qsdt_jax.workdir.older_config import in_todays_keys

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"
SUMMARY_FILE = "summary.json"
CHECKPOINT_FOLDER = "checkpoints"
LOCK_FILE = ".lock"
TRAINING = "the training split"
SHOWN_CHARACTERS = 60
# The data file of checkpoints of which nothing is known, as those of runs from before there was one.
NOTHING_KNOWN = '{"class_names": null, "training_images": null}'
# Sections and keys that change nothing about the numbers of a run, but their rounding: a resumed run may
# change them. So may the place of the data, of which classes and number are compared.
FREE_SECTIONS = ("log", "checkpoint", "parallel", "profile")
FREE_KEYS = ("data.path", "data.workers", "data.corrupt_limit", "eval.batch_size", "model.remat")
# Keys that name a place with a checkpoint, which may move: what counts is the checkpoint.
SOURCE_KEYS = ("distill.teacher", "start_from")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint of another network that a run learns or starts from.

    Attributes:
      place: where it was read, as the configuration names it.
      step: of the checkpoint; None for a file that is no checkpoint of a run.
      checksum: of the checkpoint's state, or of the file.
    """

    place: str
    step: int | None
    checksum: int

    def is_same(self, other: "Source") -> bool:
        """Whether both are the same checkpoint, wherever they were read."""
        return (self.step, self.checksum) == (other.step, other.checksum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Belongings:
    """What the checkpoints of a workdir belong to.

    Attributes:
      config: the configuration as plain data.
      class_names: in the order of the network's outputs; None where they are not known, or no classes.
      training_images: number of them; None where nothing was trained yet.
      sources: the networks that the run takes, by their key of the configuration.
    """

    config: Mapping[str, Any]
    class_names: Sequence[str] | None
    training_images: int | None
    sources: Mapping[str, Source] = dataclasses.field(default_factory=dict)


class Workdir:
    """Exclusive use of a working directory; a context manager that holds a lock.

    With `writes` false it is that of another process of the same run, which locks and writes nothing.

    Raises (on entering):
      UserError: the path is a file, cannot be written, or is used by another run.
    """

    def __init__(self, path: str | os.PathLike[str], *, writes: bool = True):
        self.path, self._writes = Path(path), writes
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> "Workdir":
        if not self._writes:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.path / LOCK_FILE))
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"workdir {self.path} is a file; expected a directory") from None
        except BlockingIOError:
            raise UserError(f"workdir {self.path} is in use by another run") from None
        except OSError as error:
            raise UserError(f"workdir {self.path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(self, *exception) -> None:
        self._lock.close()

    def require(self, run: Belongings, defaults: Mapping[str, Any] | None = None) -> Classes | None:
        """Checks that the checkpoints here are of a run; nothing is written, and no lock is needed.

        Args:
          run: the one that wants to go on.
          defaults: see `read_belongings`.

        Returns:
          What is known of their classes; None where the run has none, and in a process that does not write.

        Raises:
          UserError: they belong to another configuration or other data, or it cannot be said to what.
        """
        if not self._writes:
            return None
        stored = read_belongings(self.path, defaults)
        if differences := run_differences(stored, run):
            raise UserError(
                f"workdir {self.path} belongs to a run of another configuration: {'; '.join(differences)}"
            )
        if stored.training_images not in (None, run.training_images):  # None: of an import.
            raise UserError(
                f"workdir {self.path} belongs to a run on other data: of {stored.training_images:,} training "
                f"images, these are {run.training_images or 0:,}"
            )
        if run.class_names is None:
            return None
        names, where = run.class_names, f"the run in {self.path}"
        known = (
            Classes(where=where, outputs=len(names), names=None)  # Their number shows in the checkpoint.
            if stored.class_names is None
            else named(where, stored.class_names)
        )
        if difference := class_difference(names, known, what=TRAINING):
            raise UserError(difference)
        return known

    def claim(self, run: Belongings) -> None:
        """Binds the directory to a run, of which all has been checked."""
        if not self._writes:
            return
        config = json.dumps(run.config, indent=2, sort_keys=True)
        sources = {key: dataclasses.asdict(source) for key, source in run.sources.items()}
        data = {
            "training_images": run.training_images,
            "class_names": run.class_names,
            "sources": sources,
        }
        write_atomically(self.path / CONFIG_FILE, config + "\n")
        write_atomically(self.path / DATA_FILE, json.dumps(data, indent=1) + "\n")


def read_belongings(workdir: str | os.PathLike[str], defaults: Mapping[str, Any] | None = None) -> Belongings:
    """What the checkpoints of a workdir belong to.

    Args:
      workdir: of a run or an import.
      defaults: today's value of each key, for a configuration that is older than the key; None to take the
        configuration as it is.

    Raises:
      UserError: a file of it is missing or damaged, or the configuration does not fit the defaults.
    """
    config = read_config(workdir)
    if defaults is not None:
        config = completed(config, defaults, Path(workdir) / CONFIG_FILE)
    return dataclasses.replace(_read_data(Path(workdir)), config=config)


def read_config(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration stored in a workdir.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    return _read(Path(workdir) / CONFIG_FILE)


def _read_data(workdir: Path) -> Belongings:
    file = workdir / DATA_FILE
    data = _read(file)
    names, images = data.get("class_names", ""), data.get("training_images", "")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{file}: expected a list of class names")
    if images is not None and type(images) is not int:
        raise UserError(f"{file}: expected a whole number of training images, found {images!r}")
    try:
        sources = {key: Source(**source) for key, source in data.get("sources", {}).items()}
    except (TypeError, AttributeError):
        raise UserError(f"{file}: expected place, step and checksum of each source") from None
    return Belongings(
        config={},
        class_names=None if names is None else tuple(names),
        training_images=images,
        sources=sources,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except FileNotFoundError:
        trust = f", or write {NOTHING_KNOWN} there to take that on trust" if file.name == DATA_FILE else ""
        raise UserError(
            f"{file.parent} is not the workdir of a run: it has no {file.name}, which says what its "
            f"checkpoints belong to; put it back{trust}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{file} cannot be read: expected names and values, found {type(content).__name__}")
    return content


def completed(stored: Mapping[str, Any], defaults: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A stored configuration in today's keys, with defaults for those that it lacks, being older.

    Raises:
      UserError: a key is unknown, or its value of another type than its default.
    """
    return _completed(in_todays_keys(stored), defaults, file, "")


def _completed(
    stored: Mapping[str, Any], defaults: Mapping[str, Any], file: Path, prefix: str
) -> dict[str, Any]:
    for key in stored:
        if key not in defaults:
            raise UserError(f"{file} is not of this version: it has the unknown key {prefix + key!r}")
    values = {}
    for key, default in defaults.items():
        value = stored.get(key, default)
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            value = _completed(value, default, file, f"{prefix}{key}.")
        elif not _is_like(value, default):
            like = "keys and values" if isinstance(default, Mapping) else f"a value like {default!r}"
            found = textwrap.shorten(repr(value), SHOWN_CHARACTERS)
            raise UserError(f"{file} is not of this version: {prefix}{key} is {found}; expected {like}")
        values[key] = value
    return values


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value from JSON can stand for a default of Python."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match default:
        case None:  # Of a number that may be missing.
            return value is None or number
        case bool() | str():
            return type(value) is type(default)
        case int():
            return type(value) is int
        case float():
            return number
        case list() | tuple():
            return isinstance(value, list | tuple) and all(
                _is_like(item, default[0]) for item in value if default
            )
        case _:
            return False


def run_differences(old: Belongings, new: Belongings) -> list[str]:
    """One line for each key in which a run differs from the one so far.

    A source is the same where its checkpoint is, wherever that lies; where the run so far has noted none, the
    place has to be the same.
    """
    lines = []
    for key, before, after in _binding_changes(old.config, new.config):
        known, now = old.sources.get(key), new.sources.get(key)
        if known is None or now is None or not known.is_same(now):
            lines.append(f"{key} was {before!r}, is {after!r}")
    told = {line.partition(" ")[0] for line in lines}
    for key, known in old.sources.items():
        now = new.sources.get(key)
        if key not in told and now is not None and not known.is_same(now):
            lines.append(f"{key}={now.place!r} holds another checkpoint of step {now.step} than before")
    return lines


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each key that differs, e.g. "model.bits was 4, is 2"."""
    return [f"{key} was {before!r}, is {after!r}" for key, before, after in _binding_changes(old, new)]


def _binding_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The changes that make it another run."""
    return [
        (key, before, after)
        for key, before, after in changes(old, new)
        if key not in FREE_KEYS and key.split(".")[0] not in FREE_SECTIONS
    ]
