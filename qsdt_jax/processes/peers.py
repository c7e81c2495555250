"""The other processes of a run, as they are seen over JAX's coordination service.

In its key-value store they compare what they run, agree to go on or to stop where no device can tell (while
compiling), part at the end, and learn why one of them gives up. Of a death the service knows only after a
minute without heartbeats, and then it aborts all others with a stack trace. So each process also keeps its
connection to process 0 from the meeting: where one ends, all stop with one line. Nothing is lost by that: the
next start goes on from the last checkpoint.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax

from qsdt_jax.differences import changes
from qsdt_jax.errors import UserError
from qsdt_jax.processes.meeting import Meeting
from qsdt_jax.progress import tell

USER_STATUS, LOST_STATUS = 2, 1
POLL_SECONDS = 0.1
SAVE_SECONDS = 120  # For a save that is under way when a process has to leave.
LEAVE_SECONDS = 10  # For which process 0, where JAX's service is, lets the others leave first.
FOREVER_MS = 10**10
KEYS = "qsdt_jax/"  # Before our keys: JAX has its own in the same store.
PARTED: dict[str, Any] = {}  # The outcome of a run that all have ended.


class Peers:
    """The processes that have met, seen from one of them.

    A key holds what was set first, so the first to set it decides: of each round that all go on (the last one
    that is ready) or stop (one that wants to), and of the run, how it ended.

    Attributes:
      meeting: what they have of each other.
      before_leaving: called when this process has to leave because of another one.
    """

    def __init__(self, meeting: Meeting):
        self.meeting = meeting
        self.before_leaving: Callable[[], None] = lambda: None
        self._client: Any = None
        self._ended = threading.Event()
        self._leaving = threading.Lock()
        self._changed = threading.Condition()
        self._gone: set[int] = set()
        self._round, self._ready = 1, 0

    def watch(self) -> None:
        """Ends this process, from now on, as soon as a connection breaks off."""
        for other, connection in self.meeting.connections.items():
            threading.Thread(target=self._watch, args=(other, connection), daemon=True).start()

    def connect(self, client: Any) -> None:
        """Listens from now on for what the others say.

        Args:
          client: of JAX's coordination service, connected.
        """
        self._client = client
        threading.Thread(target=self._listen, daemon=True).start()

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Compares nested plain data with those of process 0; raises UserError where they differ."""
        mine = json.loads(json.dumps(facts))
        if self.meeting.index == 0:
            self._client.key_value_set(f"{KEYS}facts", json.dumps(mine))
            return
        first = json.loads(self._client.blocking_key_value_get(f"{KEYS}facts", FOREVER_MS))
        shown = [f"{key} is {there!r} and {here!r}" for key, there, here in changes(first, mine)]
        if shown:
            raise UserError(
                f"processes 0 and {self.meeting.index} run different things: {'; '.join(shown[:3])}"
            )

    def agree(self, ready: bool, stop: bool) -> bool | None:
        """Whether all processes go on from here; None where that is not known yet, after a moment.

        All have to call it until they get an answer, which is the same for all.

        Args:
          ready: this process can go on.
          stop: it wants to stop.
        """
        key = f"round/{self._round}"
        if stop:
            self._decide(key, False)
        elif ready and self._ready < self._round:
            self._ready = self._round
            self._decide_when_all_are_ready(key, True)
        try:
            answer = self._client.key_value_try_get(KEYS + key)
        except jax.errors.JaxRuntimeError:  # Not decided yet; where the service has gone, the watch tells it.
            if ready:
                time.sleep(POLL_SECONDS)
            return None
        self._round += 1
        return json.loads(answer)

    def part(self) -> None:
        """Waits until all processes are as far; from then on each may end."""
        self._decide_when_all_are_ready("outcome", PARTED)
        self._ended.wait()

    def refuse(self, error: UserError) -> NoReturn:
        """Ends all processes with the one line of a mistake of the user's."""
        line = f"error: {' '.join(str(error).split())}"
        self._leave(line, USER_STATUS, {"refused": line})

    def give_up(self, text: str) -> NoReturn:
        """Ends this process, and with it the others."""
        self._leave(text, LOST_STATUS, {"lost": self.meeting.index})

    def _watch(self, other: int, connection: socket.socket) -> None:
        """Waits for the end of a connection, over which nobody says anything."""
        with contextlib.suppress(OSError):
            connection.recv(1)
        with self._changed:
            self._gone.add(other)
            self._changed.notify_all()
        if self.meeting.index == 0 and self._client is not None:
            # Who gives up has said so before it ended.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._leave_with(json.loads(self._client.key_value_try_get(f"{KEYS}outcome")))
        if not self._ended.is_set():
            self._leave_with({"lost": other})

    def _listen(self) -> None:
        """Waits for the outcome of the run."""
        try:
            outcome = json.loads(self._client.blocking_key_value_get(f"{KEYS}outcome", FOREVER_MS))
        except jax.errors.JaxRuntimeError:  # The service has gone with process 0, which the watch tells.
            return
        self._leave_with(outcome)

    def _leave_with(self, outcome: Mapping[str, Any]) -> None:
        if outcome == PARTED:
            self._ended.set()
        elif "refused" in outcome:
            self._leave(outcome["refused"], USER_STATUS, outcome)
        else:
            index, count = self.meeting.index, self.meeting.count
            self._leave(
                f"error: process {outcome['lost']} of {count} ended before the run did, so process {index} "
                "stops; started again, all go on from the last checkpoint",
                LOST_STATUS,
                outcome,
            )

    def _leave(self, text: str, status: int, outcome: Mapping[str, Any]) -> NoReturn:
        """Ends this process, also where its main thread waits for one that is gone.

        Args:
          text: for the user.
          status: of the process.
          outcome: what the others are told.
        """
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()  # Another thread is leaving, with what came first.
        tell(text)
        if 0 in self._gone:
            _silence()  # JAX, which aborts all that have lost its service.
        elif self._client is not None:
            self._decide("outcome", outcome)
        save = threading.Thread(target=self._finish, daemon=True)
        save.start()
        save.join(SAVE_SECONDS)
        if self.meeting.index == 0 and self._client is not None:
            with self._changed:
                everyone = self.meeting.connections.keys()
                self._changed.wait_for(lambda: self._gone >= everyone, LEAVE_SECONDS)
        _exit(status)

    def _finish(self) -> None:
        with contextlib.suppress(UserError):  # What came first is told already.
            self.before_leaving()

    def _decide_when_all_are_ready(self, key: str, value: Any) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # The service has gone.
            if self._client.key_value_increment(f"{KEYS}{key}/ready", 1) == self.meeting.count:
                self._decide(key, value)

    def _decide(self, key: str, value: Any) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # It is decided, or the service has gone.
            self._client.key_value_set(KEYS + key, json.dumps(value))


def _silence() -> None:
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)


def _exit(status: int) -> NoReturn:
    sys.stdout.flush()
    os._exit(status)
