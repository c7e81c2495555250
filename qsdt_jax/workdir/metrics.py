"""Metrics of a run: `metrics.jsonl` is the truth, TensorBoard is beside it."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from qsdt_jax.errors import UserError
from qsdt_jax.files import free_path, put_in_place
from qsdt_jax.retry import retried
from qsdt_jax.workdir.board import Board
from qsdt_jax.workdir.history import History

METRICS_FILE = "metrics.jsonl"
BOARD_FOLDER = "tensorboard"
SHOWN_LINES = 3
DECODER = json.JSONDecoder()

Line = tuple[int, dict[str, float]]  # A step and its metrics.


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All lines of a run's metrics.jsonl; damaged ones and a half-written last one are left out.

    Raises:
      UserError: the file cannot be read.
    """
    file = Path(workdir) / METRICS_FILE

    def read() -> list[dict[str, Any]]:
        return [{"step": line[0], **line[1]} for _, line in _lines(file) if line is not None]

    return _read(read, file)


class MetricWriter:
    """Appends metrics to the workdir.

    A run resumed at `step` drops what was logged after it, because those steps are run again. Damaged lines
    are dropped and told; the file as it was is kept beside the new one. With `writes` false it only
    remembers, in a process beside the one that writes.

    Raises:
      UserError: metrics.jsonl cannot be read or written.
    """

    def __init__(self, workdir: str | os.PathLike[str], step: int, *, writes: bool = True):
        self._file = Path(workdir) / METRICS_FILE
        found = _read(lambda: _found(self._file, step), self._file)
        self.history = found.history
        self._writes = writes
        if not writes:
            return
        try:
            _mend(self._file, found)
            self._stream = open(self._file, "a", encoding="utf-8")  # noqa: SIM115 (open for the run)
        except OSError as error:
            raise UserError(f"{self._file} cannot be written: {error.strerror}") from None
        self._board = Board(Path(workdir) / BOARD_FOLDER, step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line {"step": step, ...}; it is on disk when this returns.

        Raises:
          UserError: the disk is full, or the file cannot be written.
        """
        if self._writes:
            self._append({"step": step, **metrics})
            self._board.add(step, metrics)
        self.history.add(step, metrics)

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise UserError(f"{self._file} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Closes the files; all lines are on the disk, so whatever goes wrong here is no matter."""
        if not self._writes:
            return
        try:
            self._stream.close()
        except OSError as error:  # What could not be written before was told then.
            logging.warning("%s cannot be closed: %s", self._file, error.strerror)
        self._board.close()


class _Found(NamedTuple):
    """What a file holds of a run that goes on at some step.

    Attributes:
      history: of the lines that stay.
      dropped: numbers of those that do not.
      damaged: those of them that are damaged.
      size: bytes of the lines that stay.
      open_end: that line has no line break.
    """

    history: History
    dropped: list[int]
    damaged: list[int]
    size: int
    open_end: bool


def _read(read, file: Path):
    try:
        return retried(read, file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def _lines(file: Path) -> Iterator[tuple[bytes, Line | None]]:
    """Each line of a file, none where it is missing: its text with the line break, and what it says."""
    try:
        stream = open(file, "rb")  # noqa: SIM115 (for the exception)
    except FileNotFoundError:
        return
    with stream:
        for text in stream:
            yield text, _parsed(text)


def _parsed(text: bytes) -> Line | None:
    """Step and metrics; None for what is no line of ours."""
    try:
        content = text.decode().strip()
        line, end = DECODER.raw_decode(content)
    except (ValueError, RecursionError):
        return None
    step = line.pop("step", None) if type(line) is dict and end == len(content) else None
    if type(step) is not int or not 0 <= step < 2**63:
        return None
    for value in line.values():
        if type(value) is not float and (type(value) is not int or abs(value) > 2**53):
            return None
    return step, line


def _found(file: Path, step: int) -> _Found:
    history = History()
    damaged: list[int] = []
    later: list[int] = []  # Since the last line that stays.
    half_written: list[int] = []
    size, open_end = 0, False
    for number, (text, line) in enumerate(_lines(file), 1):
        if line is None:
            (damaged if text.endswith(b"\n") else half_written).append(number)
        elif line[0] > step:
            later.append(number)
        else:
            # Steps only rise, so a later one before this is not the one that was written.
            damaged += later
            later.clear()
            history.add(*line)
            size, open_end = size + len(text), not text.endswith(b"\n")
    return _Found(history, damaged + later + half_written, sorted(damaged), size, open_end)


def _mend(file: Path, found: _Found) -> None:
    """Makes the file hold the lines that stay, and nothing else; raises OSError."""
    if found.damaged:
        kept = free_path(file.with_name(file.name + ".damaged"))
        shutil.copyfile(file, kept)
        numbers = ", ".join(map(str, found.damaged[:SHOWN_LINES]))
        more = len(found.damaged) - SHOWN_LINES
        logging.warning(
            "%s: line %s%s is damaged and left out, which best scores and curves then lack; "
            "the file as it was is kept as %s",
            file,
            numbers,
            f" and {more} more" if more > 0 else "",
            kept.name,
        )
        dropped, temporary = set(found.dropped), file.with_name(file.name + ".tmp")
        with open(temporary, "wb") as stream:
            for number, (text, _) in enumerate(_lines(file), 1):
                if number not in dropped:
                    stream.write(text.removesuffix(b"\n") + b"\n")
        put_in_place(temporary, file)
    elif found.dropped:  # They are the last: nothing of what stays has to be written again.
        os.truncate(file, found.size)
    if found.open_end and not found.damaged:
        with open(file, "ab") as stream:
            stream.write(b"\n")
