"""Ctrl-C wherever no training loop handles it: one line and status 130, whatever it interrupts."""

import contextlib
import os
import signal
import sys
from typing import Any, NoReturn

STATUS = 128 + signal.SIGINT  # As shells have it.
LINE = "stopped by Ctrl-C"


class Interrupts:
    """What SIGINT does in this process, from its first line on.

    While modules are imported and flags parsed there is nothing to tidy up, and an exception could get lost
    in a library that is half loaded, so the process ends there and then. After `begin` the signal is a
    KeyboardInterrupt, for the verb to tidy up; a second one ends the process.

    Attributes:
      came: whether there was one after `begin`. Whatever is raised then follows from it.
    """

    def __init__(self):
        self.came, self._begun = False, False

    def install(self) -> None:
        """Takes the signal over, unless the process was started to ignore it (by `nohup`, say)."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            return
        signal.signal(signal.SIGINT, self._handle)
        sys.unraisablehook = self._unraisable

    def begin(self) -> None:
        """From now on the verb works."""
        self._begun = True

    def _handle(self, number: int, frame: Any) -> None:
        if self.came or not self._begun:
            leave()
        self.came = True
        raise KeyboardInterrupt

    def _unraisable(self, problem: Any) -> None:
        """A KeyboardInterrupt in a callback of a library would be told at length, and then ignored."""
        if issubclass(problem.exc_type, KeyboardInterrupt):
            leave()
        sys.__unraisablehook__(problem)


def leave(line: str = LINE) -> NoReturn:
    """Ends the process at once with one line; threads that work in the background are left behind."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        if "multiprocessing" in sys.modules:
            import multiprocessing

            for child in multiprocessing.active_children():
                child.kill()
    if line:  # Not through the stream, which may be in the middle of a line of its own.
        os.write(2, f"{line}\n".encode())
    os._exit(STATUS)
