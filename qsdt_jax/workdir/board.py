"""TensorBoard's file of a run."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from qsdt_jax.workdir.nicety import nicety

FLUSH_SECONDS = 120


class Board:
    """Writes metrics for TensorBoard; its first error is told once, and from then on it writes nothing.

    It writes in the thread of its caller: tensorboardX's own writer does it in another one, and waits for
    ever where that has died of a full disk.

    Args:
      folder: gets a file for each start of a run.
      step: at which the run goes on; what earlier files have of later steps is hidden. 0 for a new run.
    """

    def __init__(self, folder: Path, step: int):
        self._writer, self._flushed = None, time.monotonic()
        with self._errors_logged():
            from tensorboardX.event_file_writer import EventsWriter  # Slow to import; only training writes.
            from tensorboardX.proto import event_pb2, summary_pb2

            self._event, self._summary = event_pb2.Event, summary_pb2.Summary
            folder.mkdir(parents=True, exist_ok=True)
            # Two starts within a second would have the same name.
            self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            if step:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._write(self._writer, step + 1, session_log=start)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        writer = self._writer
        if writer is None:
            return
        with self._errors_logged():
            value = self._summary.Value
            values = [value(tag=name, simple_value=number) for name, number in metrics.items()]
            self._write(writer, step, summary=self._summary(value=values))
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._errors_logged():
                writer.close()

    def _write(self, writer, step: int, **content) -> None:
        writer.write_event(self._event(wall_time=time.time(), step=step, **content))

    @contextlib.contextmanager
    def _errors_logged(self):
        done = False
        with nicety("TensorBoard's file cannot be written"):
            yield
            done = True
        if not done:
            self._writer = None
