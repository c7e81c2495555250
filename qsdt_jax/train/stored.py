"""Reading checkpoints from disk and telling a damaged step from a good one.

The directory of a step holds two items: "state", the leaves as nested dictionaries (orbax alone can read
them), and "integrity", a JSON record of every leaf's [crc32, dtype, shape] and of the metrics. The record is
needed because orbax restores flipped bits without a word.
"""

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from qsdt_jax.errors import UserError
from qsdt_jax.train.integrity import Leaves, PyTree, differences, fingerprints, leaves_of, unsealed

T = TypeVar("T")

STATE, INTEGRITY = "state", "integrity"
INTEGRITY_FILE = "metadata"  # Orbax's name for the file of a JSON item.
SHOWN_DIFFERENCES = 3
SHOWN_CHARACTERS = 160
# Failures to read that say nothing about the checkpoint.
NOT_DAMAGE = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class DamagedError(Exception):
    """A stored step that cannot be trusted; the message is the reason."""


def newest_valid(directory: Path, load: Callable[[int], T]) -> tuple[int, T, list[int]] | None:
    """(step, what `load` makes of it, damaged newer steps) of the newest step that loads, if any is stored.

    Raises:
      UserError: every stored step is damaged.
    """
    damaged = []
    for step in reversed(stored_steps(directory)):
        try:
            return step, load(step), damaged
        except DamagedError as error:
            logging.warning(
                "checkpoint of step %d in %s is damaged (%s); trying the one before",
                step,
                directory,
                error,
            )
            damaged.append(step)
    if damaged:
        raise UserError(
            f"all checkpoints in {directory} are damaged (steps {damaged[::-1]}); "
            "put back a good copy, or remove them to start anew"
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
    with (
        _read_errors_sorted(path),
        contextlib.closing(ocp.StandardCheckpointHandler()) as handler,
    ):
        leaves, _ = leaves_of(handler.restore(epath.Path(path)))
        found = fingerprints(leaves)
    expected = record["leaves"]
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
    with _read_errors_sorted(file):
        return unsealed(json.loads(file.read_text()))


def stored_metrics(directory: Path, step: int) -> dict[str, float] | None:
    """The metrics saved with a step; None where there are none, or the record is damaged."""
    with contextlib.suppress(DamagedError):
        return read_record(directory, step)["metrics"]


def score(metrics: Mapping[str, float] | None, name: str) -> float | None:
    """The metric of that name; None where there is none that is finite."""
    value = (metrics or {}).get(name)
    return value if value is not None and math.isfinite(value) else None


def best_step(directory: Path, name: str) -> int | None:
    """The stored step with the largest score under `name`, the newest of equals; None where none has one."""
    scores = {step: score(stored_metrics(directory, step), name) for step in stored_steps(directory)}
    scored = [(value, step) for step, value in scores.items() if value is not None]
    return max(scored)[1] if scored else None


def stored_steps(directory: Path) -> list[int]:
    """The steps in a directory in ascending order, without one that is still being written."""
    try:
        names = [entry.name for entry in directory.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{directory} cannot be read: {error.strerror}") from None
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


@contextlib.contextmanager
def _read_errors_sorted(path: Path) -> Iterator[None]:
    """Sorts what orbax raises, which can be anything, into damage and the rest."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        code = os_error_code(error)
        if code in NOT_DAMAGE:
            raise UserError(f"{path} cannot be read: {os.strerror(code)}") from None
        # Tensorstore appends its whole configuration, and says last what went wrong.
        reason = str(error).split(" [tensorstore_spec=")[0].replace("\n", " ")
        if len(reason) > SHOWN_CHARACTERS:
            reason = "..." + reason[-SHOWN_CHARACTERS:]
        raise DamagedError(f"{type(error).__name__}: {reason}") from error


def os_error_code(error: BaseException | None) -> int | None:
    """The errno behind an exception; tensorstore has it in the message only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if match := re.search(r"os_error_code='(\d+)'", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None
