"""The other processes of a run: each keeps its connection to process 0 from the meeting to the end.

Over it they agree to go on or to stop where no device can tell (while compiling), part at the end, and learn
why one of them gives up. Where a connection breaks off, all stop with one line; JAX would abort with a stack
trace or wait for minutes. Nothing is lost by that: the next start goes on from the last checkpoint.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from qsdt_jax.errors import UserError
from qsdt_jax.processes.meeting import Line, Meeting
from qsdt_jax.progress import tell

USER_STATUS, LOST_STATUS = 2, 1
POLL_SECONDS = 0.1
SAVE_SECONDS = 120  # For a save that is under way when a process has to leave.
LEAVE_SECONDS = 10  # For which process 0, where JAX's service is, lets the others leave first.
STOP, END = "stop", "end"  # What processes say besides the numbers of the rounds.


class Peers:
    """The processes that have met, seen from one of them.

    Process 0 decides: of each round that all go on, once all are ready, or that all stop, once one says so.

    Attributes:
      meeting: what they have of each other.
      before_leaving: called when this process has to leave because of another one.
    """

    def __init__(self, meeting: Meeting):
        self.meeting = meeting
        self.before_leaving: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._leaving = threading.Lock()
        self._gone: set[int] = set()
        self._round = 1
        self._said: set[str] = set()
        self._heard: dict[str, set[int]] = {}  # Who said it, in process 0.
        self._decided: dict[str, bool] = {}

    def watch(self) -> None:
        """Listens from now on, and ends this process as soon as a connection breaks off."""
        for other, line in self.meeting.lines.items():
            threading.Thread(target=self._listen, args=(other, line), daemon=True).start()

    def agree(self, ready: bool, stop: bool) -> bool | None:
        """Whether all processes go on from here; None where that is not known yet, after a moment.

        All have to call it until they get an answer, which is the same for all.

        Args:
          ready: this process can go on.
          stop: it wants to stop.
        """
        with self._changed:
            word = str(self._round)
            for said, true in ((STOP, stop), (word, ready)):
                if true:
                    self._say(said)
            if ready and word not in self._decided:
                self._changed.wait(POLL_SECONDS)
            if word in self._decided:
                self._round += 1
            return self._decided.get(word)

    def part(self) -> None:
        """Waits until all processes are as far; from then on each may end."""
        with self._changed:
            self._say(END)
            self._changed.wait_for(lambda: END in self._decided)
        self._close_door()

    def refuse(self, error: UserError) -> NoReturn:
        """Ends all processes with the one line of a mistake of the user's."""
        line = f"error: {' '.join(str(error).split())}"
        self.leave(line, USER_STATUS, {"refused": line})

    def give_up(self, text: str) -> NoReturn:
        """Ends this process, and with it the others."""
        self.leave(text, LOST_STATUS, {"lost": self.meeting.index})

    def leave(self, text: str, status: int, told: dict[str, Any]) -> NoReturn:
        """Ends this process, also where its main thread waits for one that is gone.

        Args:
          text: for the user.
          status: of the process.
          told: what the others are told.
        """
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()  # Another thread is leaving, with what came first.
        self._close_door()
        tell(text)
        for number, line in self.meeting.lines.items():
            if number not in self._gone:
                with contextlib.suppress(OSError):
                    line.send(told)
        save = threading.Thread(target=self._finish, daemon=True)
        save.start()
        save.join(SAVE_SECONDS)
        if self.meeting.index == 0:
            with self._changed:
                self._changed.wait_for(lambda: self._gone >= self.meeting.lines.keys(), LEAVE_SECONDS)
        _exit(status)

    def _finish(self) -> None:
        with contextlib.suppress(UserError):  # What came first is told already.
            self.before_leaving()

    def _say(self, word: str) -> None:
        """Tells process 0, once."""
        if word in self._said:
            return
        self._said.add(word)
        if self.meeting.index == 0:
            self._hear(0, word)
            return
        with contextlib.suppress(OSError):  # The thread that listens sees it as well.
            self.meeting.lines[0].send({"said": word})

    def _hear(self, process: int, word: str) -> None:
        """What process 0 makes of a word."""
        processes = self._heard.setdefault(word, set())
        processes.add(process)
        if word == STOP:
            # The round that is open, or the next one, if they do not stop at a step before.
            self._decide(str(1 + sum(word.isdigit() for word in self._decided)), False)
        elif len(processes) == self.meeting.count and word not in self._decided:
            self._decide(word, True)

    def _decide(self, word: str, go: bool) -> None:
        self._decided[word] = go
        for line in self.meeting.lines.values():
            with contextlib.suppress(OSError):
                line.send({"decided": word, "go": go})
        self._changed.notify_all()

    def _listen(self, other: int, line: Line) -> None:
        while True:
            message: dict[str, Any]
            try:
                message = line.receive(None)
            except (OSError, ValueError):
                message = {"lost": other}
            with self._changed:
                if "said" in message:
                    self._hear(other, message["said"])
                    continue
                if "decided" in message:
                    self._decided[message["decided"]] = message["go"]
                    self._changed.notify_all()
                    continue
                self._gone.add(other)
                self._changed.notify_all()
                if END in self._decided:
                    return
            if "refused" in message:
                self.leave(message["refused"], USER_STATUS, message)
            self.leave(
                f"error: process {message['lost']} of {self.meeting.count} ended before the run did, so "
                f"process {self.meeting.index} stops; started again, all go on from the last checkpoint",
                LOST_STATUS,
                message,
            )

    def _close_door(self) -> None:
        if self.meeting.door is not None:
            self.meeting.door.close()


def _exit(status: int) -> NoReturn:
    sys.stdout.flush()
    os._exit(status)
