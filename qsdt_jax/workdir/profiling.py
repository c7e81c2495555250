"""A trace of some steps, for TensorBoard's profiler, XProf or Perfetto."""

from pathlib import Path
from typing import Any

import jax

from qsdt_jax.workdir.nicety import nicety

FOLDER = "profile"


class Profile:
    """Traces from before a first to after a last step of a run; nothing without `steps`.

    Where that fails it warns, and the run goes on.

    Args:
      steps: (first, last), counted from 1.
      folder: gets plugins/profile/TIME with an .xplane.pb for XProf and perfetto_trace.json.gz for
        ui.perfetto.dev.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        self._first, self._last = steps or (0, 0)
        self._folder, self._tracing = folder, False

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._first <= step <= self._last and not self._tracing:
            with nicety(f"no trace into {self._folder}"):
                jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
                self._tracing = True
            if not self._tracing:
                self._last = 0  # Not again at each step.

    def after(self, step: int, result: Any) -> None:
        """To be called after each step, with what it has computed or computes still."""
        if self._tracing and step >= self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes what was traced, if something was."""
        if self._tracing:
            self._tracing = False
            with nicety(f"no trace in {self._folder}"):
                jax.profiler.stop_trace()
