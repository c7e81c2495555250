"""Checkpoints that are checked: each leaf has a checksum, and a damaged step falls back to the one before.

This file writes, `stored.py` reads; no other knows orbax.

States pass through host memory as NumPy arrays both ways, so a checkpoint does not depend on the devices or
the mesh that it was saved from.
"""

import contextlib
import fnmatch
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from qsdt_jax.devices import require_devices
from qsdt_jax.errors import UserError
from qsdt_jax.files import write_atomically
from qsdt_jax.processes.joining import require_same
from qsdt_jax.retry import error_code, reason
from qsdt_jax.workdir.integrity import (
    Leaves,
    PyTree,
    fingerprints,
    host_leaves,
    leaves_of,
    nested,
    sealed,
    state_checksum,
)
from qsdt_jax.workdir.orbax_noise import silence_orbax
from qsdt_jax.workdir.retention import LatestAndBest, set_aside
from qsdt_jax.workdir.stored import (
    INTEGRITY,
    STATE,
    DamagedError,
    exactly,
    folders,
    integrity_file,
    load_like,
    load_step,
    newest_valid,
    read_record,
    score,
    stored_metrics,
    stored_steps,
)

UNFINISHED = "*.orbax-checkpoint-tmp*"
# Orbax waits for no other process.
ONE_WRITER = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


class Checkpointer:
    """Saves and restores train states, with checksums, fallback to older steps and retention.

    A context manager: leaving it, by an exception too, finishes the save under way.

    In a run of several processes all of them save and restore together, but the first alone writes: a state
    is small beside what makes it.

    Args:
      directory: gets one directory for each step; made if missing. One writer at a time.
      keep_latest: number of newest checkpoints kept, at least 1.
      keep_best: number of best checkpoints kept besides.
      best_metric: name of the metric that decides; None for a directory in which no step is best.
      larger_is_better: of that metric; otherwise smaller is.

    Raises:
      UserError: the directory is a file or cannot be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_latest: int = 2,
        keep_best: int = 1,
        best_metric: str | None = None,
        larger_is_better: bool = True,
    ):
        if keep_latest < 1 or keep_best < 0:
            raise UserError(
                "expected to keep at least 1 latest and 0 best checkpoints, "
                f"found keep_latest {keep_latest} and keep_best {keep_best}"
            )
        self.directory = Path(directory).absolute()
        self._policy = LatestAndBest(
            keep_latest,
            keep_best,
            lambda step: score(self._metrics.get(step), best_metric, larger_is_better),
        )
        self._writes = jax.process_index() == 0
        silence_orbax()
        if self._writes:
            _require_writable(self.directory)
        self._open()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind, exception, traceback) -> None:
        try:
            self.close()
        except Exception as error:
            if exception is None:
                raise
            # The exception that came first goes on.
            logging.error("%s", error if isinstance(error, UserError) else reason(error))

    def save(self, step: int, state: PyTree, *, wait: bool = False) -> None:
        """Saves `state`, in the background unless `wait`; its buffers may be donated at once.

        A stored step is not written again.

        Raises:
          UserError: a later step is stored; or this save, or the one before it, could not be written (disk
            full). The stored checkpoints survive.
        """
        self.wait()
        leaves = host_leaves(state)  # Of all processes together, whatever each sees on the disk.
        if not self._writes:
            return
        stored = self.steps()
        if step in stored:
            return
        if stored and step < stored[-1]:
            raise UserError(
                f"step {step} cannot be saved: {self.directory} holds step {stored[-1]} already; "
                "remove the later checkpoints or use another directory"
            )
        self._require_room(step, leaves)
        record = {"leaves": fingerprints(leaves), "metrics": None}
        with self._write_errors_explained(step):
            # Orbax copies NumPy arrays before it returns. Its own decision whether to save is silent: force.
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.StandardSave(nested(leaves)),
                        INTEGRITY: ocp.args.JsonSave(sealed(record)),
                    }
                ),
                force=True,
            )
        self._saving = step
        if wait:
            self.wait()

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Notes the metrics of a stored step, unless it has some; by them the best steps are kept.

        Raises:
          UserError: the save under way could not be written, or the metrics could not.
        """
        self.wait()
        if not self._writes or self._metrics.get(step) is not None:
            return
        try:
            record = read_record(self.directory, step)
        except DamagedError:  # Told when it is restored.
            return
        record["metrics"] = {name: float(value) for name, value in metrics.items()}
        with self._write_errors_explained(step):
            write_atomically(integrity_file(self.directory, step), json.dumps(sealed(record)))
            self._metrics[step] = record["metrics"]
            # A best step of before may be superseded; orbax looks only when it saves.
            steps = self.steps()
            for superseded in set(steps) - self._policy.kept(steps):
                self._manager.delete(superseded)

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
          UserError: it could not be written.
        """
        step, self._saving = self._saving, None
        if step is not None:
            with self._write_errors_explained(step):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the save under way and ends the background threads.

        Raises:
          UserError: the save could not be written.
        """
        try:
            self.wait()
        finally:
            if self._writes:
                self._manager.close()

    def steps(self) -> list[int]:
        """The steps on disk in ascending order, without one that is still being written."""
        return stored_steps(self.directory)

    def require_room(self, step: int, state: PyTree) -> None:
        """Raises UserError where the disk has no room for a checkpoint of `state`; nothing is written."""
        if self._writes:
            self._require_room(step, leaves_of(state)[0])

    def restore_latest(
        self, target: PyTree, accept: Callable[[int, PyTree], None] = lambda step, state: None
    ) -> tuple[int, PyTree] | None:
        """The newest valid step and its state; damaged newer steps are reported and renamed.

        Several processes have to call it together, and agree on the step before anything is renamed.

        Args:
          target: tree like the saved one, of arrays or `jax.ShapeDtypeStruct`; its shardings are used.
          accept: called with step and state before anything is renamed; what it raises goes on.

        Returns:
          (step, state), or None where nothing is stored.

        Raises:
          UserError: no stored step is valid, one cannot be read, or the state does not fit the target; or the
            processes found different ones. Nothing is renamed then. Or the renaming failed.
        """
        self.wait()
        found = newest_valid(
            self.directory, lambda step: (load_like(self.directory, step, target), self.checksum(step))
        )
        step, (state, checksum), damaged = found or (0, (None, 0), [])
        require_same(
            {"step to go on from": step, "checksum of the checkpoint to go on from": checksum}, seen="workdir"
        )
        if found is None:
            return None
        accept(step, state)
        if damaged and self._writes:
            # Left in place they would count as the latest steps, and nothing up to them could be saved.
            for bad in damaged:
                set_aside(self.directory, bad)
            self._manager.reload()  # It keeps a list of its own.
        return step, state

    def checksum(self, step: int) -> int:
        """Of the state of a stored step, from 0 to 2^32 - 1; raises DamagedError where its record is."""
        return state_checksum(read_record(self.directory, step)["leaves"])

    def restore(self, step: int, target: PyTree) -> PyTree:
        """The state of one step; for the target see `restore_latest`.

        Raises:
          UserError: the step is missing or damaged, or the state does not fit the target.
        """
        self.wait()
        return exactly(self.directory, step, lambda step: load_like(self.directory, step, target))

    def _open(self) -> None:
        self._saving: int | None = None
        self._metrics: dict[int, dict[str, float] | None] = {}
        if not self._writes:
            return
        for unfinished in fnmatch.filter(folders(self.directory), UNFINISHED):
            shutil.rmtree(self.directory / unfinished, ignore_errors=True)
        self._metrics = {step: stored_metrics(self.directory, step) for step in self.steps()}
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                # Otherwise damage is read here, as an exception.
                lightweight_initialize=True,
                create=False,
                multiprocessing_options=ONE_WRITER,
            ),
        )

    def _require_room(self, step: int, leaves: Leaves) -> None:
        """Raises UserError where the disk has no room for `leaves`, before orbax fills it."""
        needed = sum(leaf.nbytes for leaf in leaves.values())
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise self._not_written(
                step, f"expected {needed / 1e6:.1f} MB of free space, found {free / 1e6:.1f} MB"
            )

    @contextlib.contextmanager
    def _write_errors_explained(self, step: int) -> Iterator[None]:
        """Turns errors of the operating system, which orbax wraps, into UserError."""
        try:
            yield
        except Exception as error:
            # Orbax's own list of steps is wrong now. A new manager also removes what was half written.
            with contextlib.suppress(Exception):
                self._manager.close()
            with contextlib.suppress(UserError):  # The first error is the one to tell.
                self._open()
            code = error_code(error)
            if code is None:
                raise
            raise self._not_written(step, os.strerror(code)) from error

    def _not_written(self, step: int, why: str) -> UserError:
        return UserError(
            f"the checkpoint of step {step} could not be written to {self.directory}: {why}; "
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
      UserError: nothing valid is stored, or the step is missing or damaged; or JAX finds no device.
    """
    require_devices()  # Orbax asks for them, and its error would say that the checkpoint cannot be read.
    directory = Path(directory).absolute()
    silence_orbax()

    def load(step: int) -> dict[str, Any]:
        return nested(load_step(directory, step, read_record(directory, step)))

    if step is not None:
        return step, exactly(directory, step, load)
    found = newest_valid(directory, load)
    if found is None:
        raise UserError(f"{directory} holds no checkpoint")
    return found[0], found[1]


def _require_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"checkpoint directory {directory} is a file; expected a directory") from None
    except OSError as error:
        raise UserError(f"checkpoint directory {directory} cannot be written: {error.strerror}") from None
