"""The other processes of a run: each keeps its connection to process 0 from the meeting to the end.

When one breaks off, all stop with one line, where JAX would abort with a stack trace or wait for minutes.
Nothing is lost by that: the next start goes on from the last checkpoint.
"""

import contextlib
import os
import sys
import threading
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from qsdt_jax.errors import UserError
from qsdt_jax.train.meeting import Line, Meeting

USER_STATUS, LOST_STATUS = 2, 1


class Peers:
    """The processes that have met, seen from one of them."""

    def __init__(self, meeting: Meeting):
        self.meeting = meeting
        self._parting = False

    def watch(self) -> None:
        """Ends this process as soon as a connection breaks off."""
        for other, line in self.meeting.lines.items():
            threading.Thread(target=self._listen, args=(other, line), daemon=True).start()

    def part(self) -> None:
        """Waits until all processes are as far, and ends the connections."""
        multihost_utils.sync_global_devices("end of the run")
        self._parting = True
        if self.meeting.door is not None:
            self.meeting.door.close()
        jax.distributed.shutdown()

    def _listen(self, other: int, line: Line) -> None:
        try:
            lost = line.receive(None)["lost"]
        except (OSError, ValueError):
            lost = other
        if self._parting:
            return
        index, count, lines = self.meeting.index, self.meeting.count, self.meeting.lines
        if index == 0:
            for number, connection in lines.items():
                if number != lost:
                    with contextlib.suppress(OSError):
                        connection.send({"lost": lost})
        leave(
            f"error: process {lost} of {count} ended before the run did, so process {index} stops; "
            "started again, all go on from the last checkpoint",
            LOST_STATUS,
        )


def leave(text: str, status: int) -> NoReturn:
    """Ends the process at once, also where its main thread waits for a process that is gone."""
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def refuse(error: UserError) -> NoReturn:
    """Ends the process at once with the one line of a mistake of the user's."""
    leave(f"error: {' '.join(str(error).split())}", USER_STATUS)
