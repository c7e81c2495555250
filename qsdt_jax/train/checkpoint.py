"""Checkpoints that are checked: each leaf has a checksum, and a damaged step falls back to the one before.

The only file that knows orbax. The directory of a step holds two items: "state", the leaves as nested
dictionaries (orbax alone can read them), and "integrity", a JSON record of every leaf's [crc32, dtype, shape]
and of the metrics. The record is needed because orbax restores flipped bits without a word.

States pass through host memory as NumPy arrays both ways, so a checkpoint does not depend on the devices or
the mesh that it was saved from.
"""

import contextlib
import errno
import functools
import json
import logging as python_logging
import math
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from qsdt_jax.errors import UserError
from qsdt_jax.train.workdir import write_atomically

PyTree = Any
Leaves = dict[str, Any]  # By path in the tree, e.g. "variables/params/head/kernel".
T = TypeVar("T")

STATE, INTEGRITY = "state", "integrity"
INTEGRITY_FILE = "metadata"  # Orbax's name for the file of a JSON item.
UNFINISHED = "*.orbax-checkpoint-tmp*"
SHOWN_DIFFERENCES = 3
SHOWN_CHARACTERS = 160
# Failures to read that say nothing about the checkpoint.
NOT_DAMAGE = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class Checkpointer:
    """Saves and restores train states, with checksums, fallback to older steps and retention.

    A context manager: leaving it, by an exception too, finishes the save under way.

    Args:
      directory: gets one directory for each step; made if missing. One writer at a time.
      keep_latest: number of newest checkpoints kept, at least 1.
      keep_best: number of best checkpoints kept besides.
      best_metric: name of the metric that decides (larger is better).

    Raises:
      UserError: the directory is a file or cannot be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        best_metric: str = "eval/top1",
    ):
        if keep_latest < 1 or keep_best < 0:
            raise UserError(
                "expected to keep at least 1 latest and 0 best checkpoints, "
                f"found keep_latest {keep_latest} and keep_best {keep_best}"
            )
        self.directory = Path(directory).absolute()
        self._policy = _LatestAndBest(keep_latest, keep_best, self._score)
        self._best_metric = best_metric
        _silence_orbax()
        _require_writable(self.directory)
        self._open()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind, exception, traceback) -> None:
        try:
            self.close()
        except UserError as error:
            if exception is None:
                raise
            logging.error("%s", error)  # The exception that came first goes on.

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        """Saves `state`, in the background unless `wait`; its buffers may be donated at once.

        A stored step is not written again; only `metrics` that it lacks are added to it.

        Raises:
          UserError: a later step is stored; or this save, or the one before it, could not be written (disk
            full). The stored checkpoints survive.
        """
        self.wait()
        stored = self.steps()
        if step in stored:
            self._add_metrics(step, metrics)
            return
        if stored and step < stored[-1]:
            raise UserError(
                f"step {step} cannot be saved: {self.directory} holds step {stored[-1]} already; "
                "remove the later checkpoints or use another directory"
            )
        leaves = _host_leaves(state)
        self._require_room(step, leaves)
        record = {"leaves": _fingerprints(leaves), "metrics": _plain(metrics)}
        self._metrics[step] = record["metrics"]
        with self._write_errors_told(step):
            # Orbax copies NumPy arrays before it returns. Its own decision whether to save is silent: force.
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.StandardSave(_nested(leaves)),
                        INTEGRITY: ocp.args.JsonSave(_sealed(record)),
                    }
                ),
                force=True,
            )
        self._saving = step
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
          UserError: it could not be written.
        """
        step, self._saving = self._saving, None
        if step is not None:
            with self._write_errors_told(step):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the save under way and ends the background threads.

        Raises:
          UserError: the save could not be written.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps on disk in ascending order, without one that is still being written."""
        return _stored_steps(self.directory)

    def best_step(self) -> int | None:
        """The step on disk whose `best_metric` is largest, the newest of equals; None where none has it."""
        scored = [(score, step) for step in self.steps() if (score := self._score(step)) is not None]
        return max(scored)[1] if scored else None

    def restore_latest(self, target: PyTree) -> tuple[int, PyTree] | None:
        """The newest valid step and its state; damaged newer steps are reported and deleted.

        Args:
          target: tree like the saved one, of arrays or `jax.ShapeDtypeStruct`; its shardings are used.

        Returns:
          (step, state), or None where nothing is stored.

        Raises:
          UserError: no stored step is valid, or the state does not fit the target. Nothing is deleted then.
        """
        self.wait()
        found = _newest_valid(self.directory, lambda step: _load_like(self.directory, step, target))
        if found is None:
            return None
        step, state, damaged = found
        # Left in place they would count as the latest steps, and nothing up to them could be saved.
        for bad in damaged:
            logging.warning("deleting the damaged checkpoint of step %d in %s", bad, self.directory)
            self._manager.delete(bad)
        return step, state

    def restore(self, step: int, target: PyTree) -> PyTree:
        """The state of one step; for the target see `restore_latest`.

        Raises:
          UserError: the step is missing or damaged, or the state does not fit the target.
        """
        self.wait()
        return _exactly(self.directory, step, lambda step: _load_like(self.directory, step, target))

    def _open(self) -> None:
        if jax.process_index() == 0:
            for unfinished in self.directory.glob(UNFINISHED):
                shutil.rmtree(unfinished, ignore_errors=True)
        self._saving: int | None = None
        self._metrics = {step: _stored_metrics(self.directory, step) for step in self.steps()}
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                # Otherwise damage is read here, as an exception.
                lightweight_initialize=True,
            ),
        )

    def _score(self, step: int) -> float | None:
        value = (self._metrics.get(step) or {}).get(self._best_metric)
        return value if value is not None and math.isfinite(value) else None

    def _add_metrics(self, step: int, metrics: Mapping[str, float] | None) -> None:
        if metrics is None or self._metrics.get(step) is not None:
            return
        with contextlib.suppress(_DamagedError):  # Found and told when it is restored.
            record = _read_record(self.directory, step) | {"metrics": _plain(metrics)}
            if jax.process_index() == 0:
                write_atomically(_integrity_file(self.directory, step), json.dumps(_sealed(record)))
            self._metrics[step] = record["metrics"]

    def _require_room(self, step: int, leaves: Leaves) -> None:
        """Raises UserError where the disk has no room for `leaves`, before orbax fills it."""
        needed = sum(leaf.nbytes for leaf in leaves.values())
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise self._not_written(
                step, f"expected {needed / 1e6:.1f} MB of free space, found {free / 1e6:.1f} MB"
            )

    @contextlib.contextmanager
    def _write_errors_told(self, step: int) -> Iterator[None]:
        """Turns errors of the operating system, which orbax wraps, into UserError."""
        try:
            yield
        except Exception as error:
            # Orbax's own list of steps is wrong now. A new manager also removes what was half written.
            with contextlib.suppress(Exception):
                self._manager.close()
            self._open()
            code = _os_error_code(error)
            if code is None:
                raise
            raise self._not_written(step, os.strerror(code)) from error

    def _not_written(self, step: int, reason: str) -> UserError:
        return UserError(
            f"the checkpoint of step {step} could not be written to {self.directory}: {reason}; "
            f"stored are steps {self.steps()}. Make room, and the same command goes on from there"
        )


def restore_raw(directory: str | os.PathLike[str], step: int | None = None) -> tuple[int, dict[str, Any]]:
    """A checked state without a target, for tools that only read.

    Args:
      directory: of a `Checkpointer`; nothing in it is changed.
      step: None for the newest valid one.

    Returns:
      (step, nested dictionaries of NumPy arrays); tuples and dataclasses are dictionaries as well, and leaves
      that were None are absent.

    Raises:
      UserError: nothing valid is stored, or the step is missing or damaged.
    """
    directory = Path(directory).absolute()
    _silence_orbax()

    def load(step: int) -> dict[str, Any]:
        return _nested(_load(directory, step, _read_record(directory, step)))

    if step is not None:
        return step, _exactly(directory, step, load)
    found = _newest_valid(directory, load)
    if found is None:
        raise UserError(f"{directory} holds no checkpoint")
    return found[0], found[1]


class _DamagedError(Exception):
    """A stored step that cannot be trusted; the message is the reason."""


class _LatestAndBest:
    """Orbax's preservation policy; its own BestN forgets the metrics when a run is resumed."""

    def __init__(self, latest: int, best: int, score: Callable[[int], float | None]):
        self._latest, self._best, self._score = latest, best, score

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        scored = [(score, step) for step in steps if (score := self._score(step)) is not None]
        best = {step for _, step in sorted(scored, reverse=True)[: self._best]}
        kept = best | set(steps[-self._latest :])
        return [step in kept for step in steps]


def _newest_valid(directory: Path, load: Callable[[int], T]) -> tuple[int, T, list[int]] | None:
    """(step, what `load` makes of it, damaged newer steps) of the newest step that loads."""
    damaged = []
    for step in reversed(_stored_steps(directory)):
        try:
            return step, load(step), damaged
        except _DamagedError as error:
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


def _exactly(directory: Path, step: int, load: Callable[[int], T]) -> T:
    stored = _stored_steps(directory)
    if step not in stored:
        raise UserError(f"{directory} holds no checkpoint of step {step}; it holds steps {stored}")
    try:
        return load(step)
    except _DamagedError as error:
        raise UserError(f"the checkpoint of step {step} in {directory} is damaged: {error}") from None


def _load_like(directory: Path, step: int, target: PyTree) -> PyTree:
    """The state of a step in the structure and the shardings of `target`."""
    wanted, structure = _leaves(target)
    record = _read_record(directory, step)
    # First the structure: a state of another model is no damage.
    differences = _differences(wanted, record["leaves"])
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        raise UserError(
            f"the checkpoint of step {step} in {directory} does not fit this configuration: "
            + "; ".join(differences[:SHOWN_DIFFERENCES])
            + (f"; and {more} more" if more > 0 else "")
        )
    arrays = _load(directory, step, record)
    return jax.tree.unflatten(structure, [_placed(arrays[name], leaf) for name, leaf in wanted.items()])


def _load(directory: Path, step: int, record: Mapping[str, Any]) -> Leaves:
    """The leaves of a step, checked against its record."""
    path = directory / str(step) / STATE
    with (
        _read_errors_sorted(path),
        contextlib.closing(ocp.StandardCheckpointHandler()) as handler,
    ):
        leaves, _ = _leaves(handler.restore(epath.Path(path)))
        found = _fingerprints(leaves)
    expected = record["leaves"]
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if wrong:
        raise _DamagedError(
            f"checksum of {min(wrong)} and {len(wrong) - 1} more of {len(expected)} leaves is wrong"
        )
    return leaves


def _differences(wanted: Leaves, stored: Mapping[str, list]) -> list[str]:
    """One line for each leaf that is not as wanted."""
    expected = {name: _kind(*_dtype_and_shape(leaf)) for name, leaf in wanted.items()}
    found = {name: _kind(dtype, shape) for name, (_, dtype, shape) in stored.items()}
    nothing = "nothing"
    return [
        f"{name}: expected {expected.get(name, nothing)}, found {found.get(name, nothing)}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def _kind(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _dtype_and_shape(leaf: Any) -> tuple[str, Sequence[int]]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        # Without x64 a float64 target can only become float32.
        return str(jax.dtypes.canonicalize_dtype(leaf.dtype)), leaf.shape
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return str(leaf.dtype), leaf.shape


def _placed(array: np.ndarray, like: Any) -> Any:
    """`array` as the kind of leaf that `like` is."""
    if isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        if like.sharding is None:
            return jnp.asarray(array)
        return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])
    return array if isinstance(like, np.ndarray) else type(like)(array[()])


def _leaves(tree: PyTree) -> tuple[Leaves, Any]:
    """The leaves by path, and the structure of the tree."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise ValueError("two leaves of the state have the same path")
    return leaves, structure


def _nested(leaves: Leaves) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def _host_leaves(state: PyTree) -> Leaves:
    leaves, _ = _leaves(state)
    return {name: np.asarray(leaf) for name, leaf in jax.device_get(leaves).items()}


def _fingerprints(leaves: Leaves) -> dict[str, list]:
    """[crc32 of the bytes, dtype, shape] of each leaf, as JSON has it."""

    def fingerprint(leaf: np.ndarray) -> list:
        # As bytes, because bfloat16 has no buffer protocol.
        data = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        return [zlib.crc32(data.data), str(leaf.dtype), list(leaf.shape)]

    with ThreadPoolExecutor() as pool:  # zlib lets the other threads run.
        return dict(zip(leaves, pool.map(fingerprint, leaves.values()), strict=True))


def _sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with a checksum of its own."""
    text = json.dumps(record)
    return {"record": text, "crc32": zlib.crc32(text.encode())}


def _integrity_file(directory: Path, step: int) -> Path:
    return directory / str(step) / INTEGRITY / INTEGRITY_FILE


def _read_record(directory: Path, step: int) -> dict[str, Any]:
    file = _integrity_file(directory, step)
    with _read_errors_sorted(file):
        sealed = json.loads(file.read_text())
        if zlib.crc32(sealed["record"].encode()) != sealed["crc32"]:
            raise ValueError("checksum of the integrity record is wrong")
        return json.loads(sealed["record"])


def _stored_metrics(directory: Path, step: int) -> dict[str, float] | None:
    with contextlib.suppress(_DamagedError):
        return _read_record(directory, step)["metrics"]


def _stored_steps(directory: Path) -> list[int]:
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
        code = _os_error_code(error)
        if code in NOT_DAMAGE:
            raise UserError(f"{path} cannot be read: {os.strerror(code)}") from None
        # Tensorstore appends its whole configuration, and says last what went wrong.
        reason = str(error).split(" [tensorstore_spec=")[0].replace("\n", " ")
        if len(reason) > SHOWN_CHARACTERS:
            reason = "..." + reason[-SHOWN_CHARACTERS:]
        raise _DamagedError(f"{type(error).__name__}: {reason}") from error


def _os_error_code(error: BaseException | None) -> int | None:
    """The errno behind an exception; tensorstore has it in the message only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if match := re.search(r"os_error_code='(\d+)'", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None


def _require_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"checkpoint directory {directory} is a file; expected a directory") from None
    except OSError as error:
        raise UserError(f"checkpoint directory {directory} cannot be written: {error.strerror}") from None


def _plain(metrics: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if metrics is None else {name: float(value) for name, value in metrics.items()}


@functools.cache
def _silence_orbax() -> None:
    """Once per process: leaves orbax's warnings, and of its errors only what it raises."""
    for name in ("absl", "asyncio"):
        python_logging.getLogger(name).addFilter(_is_worth_reading)
    others = sys.unraisablehook

    def hook(unraisable) -> None:
        # After an error orbax closes its event loop, and dozens of answers of tensorstore find it gone.
        if "Event loop is closed" not in str(unraisable.exc_value):
            others(unraisable)

    sys.unraisablehook = hook


def _is_worth_reading(record: python_logging.LogRecord) -> bool:
    """Drops orbax's chatter, and the tracebacks of errors that it raises as well."""
    if record.exc_info and "tensorstore" in str(record.exc_info[1]):
        return False
    chatter = record.levelno <= python_logging.INFO or record.exc_info
    return not (chatter and f"{os.sep}orbax{os.sep}" in record.pathname)
