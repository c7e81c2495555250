"""Processes meet before they are one run: each comes to process 0, which compares what they are to run.

JAX's own service aborts with a stack trace or waits for minutes where a process is missing, has the id of
another one or runs something else. So they meet over plain connections first, and keep them.
"""

import contextlib
import dataclasses
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from qsdt_jax.differences import changes
from qsdt_jax.errors import UserError

RETRY_SECONDS = 0.1
GREETING_SECONDS = 10  # A connection that says nothing for longer is none of ours.
LINGER_SECONDS = 5  # For which a refusal waits for those that are still on their way.


class Line:
    """One JSON value a line, over a connection."""

    def __init__(self, connection: socket.socket):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):  # A host that vanished says nothing.
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        self._connection, self._stream = connection, connection.makefile("rb")

    def send(self, value: Any) -> None:
        """Raises OSError where the connection has ended."""
        self._connection.sendall(json.dumps(value).encode() + b"\n")

    def receive(self, timeout: float | None) -> Any:
        """The next value; raises OSError or ValueError at the end of the connection or of the time."""
        self._connection.settimeout(timeout)
        return json.loads(self._stream.readline())

    def ended(self) -> bool:
        """Whether the other side has closed the connection; it must have nothing to say now."""
        self._connection.settimeout(0)
        try:
            return not self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._connection.settimeout(None)

    def close(self) -> None:
        """Ends the connection, for a thread that listens as well."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._connection.close()


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Processes that have met.

    Attributes:
      index, count: of this process, of all.
      service: HOST:PORT of process 0 where JAX may listen.
      lines: from process 0 to each other one by its index, from another one to process 0.
      door: of process 0, which tells those who come too late; the caller closes it.
    """

    index: int
    count: int
    service: str
    lines: Mapping[int, Line]
    door: "Door | None" = None


class Door:
    """Where process 0 hears who comes, each in a thread of its own: who stays silent holds up nobody.

    Raises:
      OSError: it cannot listen there.
    """

    def __init__(self, port: int):
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self._server = socket.create_server(
            ("", port), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
        self._lock = threading.Lock()
        self._refusal: str | None = None
        self.refused = 0  # How many came too late.
        self.arrivals: queue.SimpleQueue[tuple[Line, dict[str, Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self, reason: str) -> None:
        """Tells everybody who comes from now on why it cannot be part of the run."""
        with self._lock:
            self._refusal = reason
            while not self.arrivals.empty():
                self._turn_away(self.arrivals.get()[0])

    def close(self) -> None:
        """Hears nobody any more, and gives the port back."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # Else the thread goes on waiting.
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # The door is closed.
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        line = Line(connection)
        try:
            other = line.receive(GREETING_SECONDS)
            process, count, facts = int(other["process"]), int(other["count"]), dict(other["facts"])
        except (OSError, ValueError, KeyError, TypeError):
            line.close()
            return
        with self._lock:
            if self._refusal is None:
                self.arrivals.put((line, {"process": process, "count": count, "facts": facts}))
            else:
                self._turn_away(line)

    def _turn_away(self, line: Line) -> None:
        self.refused += 1
        with contextlib.suppress(OSError):
            line.send({"error": self._refusal})


def meet(address: str, count: int, index: int, facts: Mapping[str, Any], timeout: float) -> Meeting:
    """Waits until all processes have come to process 0, which compares them and tells all what it found.

    Args:
      address: HOST:PORT where process 0 listens.
      count, index: number of processes and of this one.
      facts: nested plain data that must be the same in all processes.
      timeout: seconds to wait for the others.

    Raises:
      UserError: no such address; a process does not come or has the id of another one; facts that differ.
    """
    host, port = parsed(address)
    deadline = time.monotonic() + timeout
    mine = {"process": index, "count": count, "facts": json.loads(json.dumps(facts))}
    if index == 0:
        return _host(host, port, mine, deadline, timeout)
    while True:
        line = None
        try:
            line = Line(socket.create_connection((host, port), max(RETRY_SECONDS, _left(deadline))))
            line.send(mine)
            answer = line.receive(_left(deadline) + LINGER_SECONDS)  # Process 0 gives up first, and says so.
            error = answer["error"]
        except (OSError, ValueError, KeyError, TypeError):
            if line is not None:
                line.close()
            if _left(deadline) <= 0:
                raise UserError(
                    f"no answer from the coordinator at {address} in {timeout:g} s; process 0 must run "
                    f"there, and process {index} reach it"
                ) from None
            time.sleep(RETRY_SECONDS)
            continue
        if error:
            raise UserError(error)
        return Meeting(index, count, answer["service"], {0: line})


def parsed(address: str) -> tuple[str, int]:
    """Host and port; raises UserError where it is not HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={address} is not HOST:PORT")
    return host, int(port)


def _host(host: str, port: int, mine: Mapping[str, Any], deadline: float, timeout: float) -> Meeting:
    count, place = mine["count"], f"{host}:{port}"
    try:
        door = Door(port)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at {place}: {os.strerror(error.errno or 0)}; "
            "does another process have --process_id=0, or another program the port?"
        ) from None
    came: list[Line] = []
    lines: dict[int, Line] = {}
    error = None
    with contextlib.closing(socket.create_server(("", 0))) as reserved:
        service = f"{host}:{reserved.getsockname()[1]}"
        while not error:
            # Who has gone may come again, started anew.
            lines = {number: line for number, line in lines.items() if not line.ended()}
            missing = set(range(1, count)) - lines.keys()
            if not missing:
                break
            try:
                line, other = door.arrivals.get(timeout=RETRY_SECONDS)
            except queue.Empty:
                if _left(deadline) <= 0:
                    error = f"process {min(missing)} of {count} did not come to {place} in {timeout:g} s"
                continue
            came.append(line)
            error = _disagreement(mine, other)
            number = other["process"]
            if not error and number in lines and not lines[number].ended():
                error = f"two processes have --process_id={number}"
            lines[number] = line
    door.refuse(
        error
        or f"the run at {place} has begun with all its {count} processes; "
        "does another one have the --process_id of this one?"
    )
    for line in came:
        with contextlib.suppress(OSError):
            line.send({"error": error, "service": service})
    if error:
        until = time.monotonic() + min(LINGER_SECONDS, _left(deadline))
        while len(came) + door.refused < count - 1 and _left(until) > 0:
            time.sleep(RETRY_SECONDS)
        door.close()
        raise UserError(error)
    return Meeting(0, count, service, lines, door)


def _disagreement(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """One line where another process cannot be part of this run."""
    number, count = other["process"], mine["count"]
    if other["count"] != count:
        return f"--num_processes is {count} for process 0 and {other['count']} for process {number}"
    shown = [
        f"{key} is {here!r} and {there!r}" for key, here, there in changes(mine["facts"], other["facts"])
    ]
    return f"processes 0 and {number} run different things: {'; '.join(shown[:3])}" if shown else None


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
