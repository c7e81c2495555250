"""Reading checkpoints from disk and telling a damaged step from a good one.

The directory of a step holds two items: "state", the leaves as nested dictionaries (orbax alone can read
them), and "integrity", a JSON record of every leaf's [crc32, dtype, shape] and of the metrics. The record is
needed because orbax restores flipped bits without a word.

Damage has to be shown: by a wrong checksum or format of what was read, or by a missing file, twice, with the
same bytes on the disk both times. A failure to read (`retry.may_pass`) shows nothing and is an error.
"""

import contextlib
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from qsdt_jax.errors import UserError
from qsdt_jax.retry import FOUND_OTHERWISE, error_code, may_pass, reason, retried
from qsdt_jax.workdir.integrity import Leaves, PyTree, differences, fingerprints, leaves_of, unsealed

T = TypeVar("T")

STATE, INTEGRITY = "state", "integrity"
INTEGRITY_FILE = "metadata"  # Orbax's name for the file of a JSON item.
SHOWN_DIFFERENCES = 3
# How tensorstore begins where it says nothing about what it read.
NO_FINDING = re.compile(
    "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED"
    "|UNAVAILABLE|UNKNOWN): "
)


class DamagedError(Exception):
    """A stored step that cannot be trusted; the message is the reason.

    Attributes:
      shown: by a checksum, or a file of ours that is missing or no record. Else orbax alone says so, which
        raises anything.
    """

    def __init__(self, message: str, *, shown: bool = True):
        super().__init__(message)
        self.shown = shown


def newest_valid(directory: Path, load: Callable[[int], T]) -> tuple[int, T, list[int]] | None:
    """(step, what `load` makes of it, damaged newer steps) of the newest step that loads, if any is stored.

    Raises:
      UserError: every stored step is damaged, or one that is newer than the first good one cannot be read.
    """
    damaged: dict[int, DamagedError] = {}
    for step in reversed(stored_steps(directory)):
        try:
            value = load(step)
        except DamagedError as error:
            logging.warning(
                "checkpoint of step %d in %s is damaged (%s); trying the one before",
                step,
                directory,
                error,
            )
            damaged[step] = error
            continue
        # Now orbax is known to work: what it alone complained of is asked for again.
        for newer in [newer for newer, error in damaged.items() if not error.shown]:
            with contextlib.suppress(DamagedError):
                value = load(newer)
                logging.warning("checkpoint of step %d in %s could be read after all", newer, directory)
                return newer, value, [bad for bad in damaged if bad > newer]
        return step, value, list(damaged)
    if damaged:
        raise UserError(
            f"all checkpoints in {directory} are damaged (steps {sorted(damaged)}); of the newest: "
            f"{damaged[max(damaged)]}. Put back a good copy, or move them away to start anew"
        )
    return None


def exactly(directory: Path, step: int, load: Callable[[int], T]) -> T:
    """What `load` makes of one step.

    Raises:
      UserError: it is missing or damaged.
    """
    stored = stored_steps(directory)
    if step not in stored:
        raise UserError(f"{directory} holds no checkpoint of step {step}; it holds steps {stored}")
    try:
        return load(step)
    except DamagedError as error:
        raise UserError(f"the checkpoint of step {step} in {directory} is damaged: {error}") from None


def load_like(directory: Path, step: int, target: PyTree) -> PyTree:
    """The state of a step in the structure and the shardings of `target`.

    Raises:
      UserError: the state does not fit the target.
      DamagedError: it cannot be trusted.
    """
    wanted, structure = leaves_of(target)
    record = read_record(directory, step)
    # First the structure: a state of another model is no damage.
    found = differences(wanted, record["leaves"])
    if found:
        more = len(found) - SHOWN_DIFFERENCES
        raise UserError(
            f"the checkpoint of step {step} in {directory} does not fit this configuration: "
            + "; ".join(found[:SHOWN_DIFFERENCES])
            + (f"; and {more} more" if more > 0 else "")
        )
    arrays = load_step(directory, step, record)
    return jax.tree.unflatten(structure, [_placed(arrays[name], leaf) for name, leaf in wanted.items()])


def load_step(directory: Path, step: int, record: Mapping[str, Any]) -> Leaves:
    """The leaves of a step, checked against its record; raises DamagedError."""
    path = directory / str(step) / STATE
    return _twice(path, lambda: _checked_leaves(path, record["leaves"]))


def _checked_leaves(path: Path, expected: Mapping[str, list]) -> Leaves:
    if not stat.S_ISDIR(path.stat().st_mode):  # Unlike is_dir it hides no error.
        raise DamagedError(f"{path} is no folder")
    try:
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            leaves, _ = leaves_of(handler.restore(epath.Path(path)))
            found = fingerprints(leaves)
    except Exception as error:
        if _shows_nothing(error):
            raise
        raise DamagedError(reason(error), shown=False) from error
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if wrong:
        raise DamagedError(
            f"checksum of {min(wrong)} and {len(wrong) - 1} more of {len(expected)} leaves is wrong"
        )
    return leaves


def _placed(array: np.ndarray, like: Any) -> Any:
    """`array` as the kind of leaf that `like` is."""
    if isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        if like.sharding is None:
            return jnp.asarray(array)
        return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])
    return array if isinstance(like, np.ndarray) else type(like)(array[()])


def integrity_file(directory: Path, step: int) -> Path:
    """Where the record of a step lies."""
    return directory / str(step) / INTEGRITY / INTEGRITY_FILE


def read_record(directory: Path, step: int) -> dict[str, Any]:
    """The record of a step, {"leaves": fingerprints, "metrics": ...}; raises DamagedError."""
    file = integrity_file(directory, step)

    def read() -> dict[str, Any]:
        content = file.read_bytes()
        try:
            record = unsealed(json.loads(content))
            return {name: record[name] for name in ("leaves", "metrics")}
        except Exception as error:  # Whatever it is that the bytes are instead.
            if _shows_nothing(error):
                raise
            raise DamagedError(f"{file.parent.name}: {reason(error)}") from error

    return _twice(file, read)


def stored_metrics(directory: Path, step: int) -> dict[str, float] | None:
    """The metrics saved with a step; None where there are none, or the record is damaged."""
    with contextlib.suppress(DamagedError):
        return read_record(directory, step)["metrics"]


def score(
    metrics: Mapping[str, float] | None, name: str | None, larger_is_better: bool = True
) -> float | None:
    """The metric of that name, the larger the better: with its sign turned where smaller is better.

    None where there is none that is finite.
    """
    value = (metrics or {}).get(name or "")
    if value is None or not math.isfinite(value):
        return None
    return value if larger_is_better else -value


def best_step(directory: Path, name: str, larger_is_better: bool = True) -> int | None:
    """The stored step with the best score under `name`, the newest of equals; None where none has one."""
    scores = {
        step: score(stored_metrics(directory, step), name, larger_is_better)
        for step in stored_steps(directory)
    }
    scored = [(value, step) for step, value in scores.items() if value is not None]
    return max(scored)[1] if scored else None


def stored_steps(directory: Path) -> list[int]:
    """The steps in a directory in ascending order, without one that is still being written."""
    return sorted(int(name) for name in folders(directory) if re.fullmatch("0|[1-9][0-9]*", name))


def folders(directory: Path) -> list[str]:
    """The names of the folders in a directory, in no order; none where it is missing."""

    def read() -> list[str]:
        with os.scandir(directory) as entries:  # Unlike Path.is_dir it hides no error.
            return [entry.name for entry in entries if entry.is_dir()]

    try:
        return retried(read, directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{directory} cannot be read: {error.strerror}") from None


def _twice(path: Path, read: Callable[[], T]) -> T:
    """What `read` makes of `path`; damage is believed where it is found twice, in the same bytes.

    Raises:
      DamagedError: it is damaged.
      UserError: it cannot be read, or reads differently each time.
    """

    def attempt() -> T:
        try:
            return retried(read, path, passing=_shows_nothing)
        except OSError as error:
            raise DamagedError(f"{path.name}: {reason(error)}") from error

    try:
        return attempt()
    except DamagedError as error:
        first = error
    before = retried(lambda: _checksum(path), path)
    try:
        value = attempt()
    except DamagedError:
        if retried(lambda: _checksum(path), path) != before:
            raise UserError(
                f"{path} reads differently from one time to the next, so nothing can be said of it; "
                "it was left alone"
            ) from None
        raise
    logging.warning("%s read as damaged (%s), and as whole when it was read again", path, first)
    return value


def _shows_nothing(error: Exception) -> bool:
    """Whether an error says nothing about what was to be read."""
    if isinstance(error, DamagedError):
        return False
    if may_pass(error):
        return True
    # Threads that cannot start, loops and pools that are closed, errors inside a library.
    internal = isinstance(error, RuntimeError | SystemError) and not isinstance(
        error, NotImplementedError | RecursionError
    )
    return internal or (error_code(error) is None and NO_FINDING.match(str(error)) is not None)


def _checksum(path: Path) -> int:
    """Of a file, or of all names and files below a folder, read as plain bytes.

    Raises:
      OSError: they cannot be read; what is missing or no file has a checksum, too.
    """
    found = zlib.crc32(str(path).encode())
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            for child in sorted(path.iterdir()):
                found = zlib.crc32(_checksum(child).to_bytes(4), found)
        elif stat.S_ISREG(mode):
            with open(path, "rb") as stream:
                while block := stream.read(1 << 24):
                    found = zlib.crc32(block, found)
    except OSError as error:
        if error.errno not in FOUND_OTHERWISE:
            raise
    return found
