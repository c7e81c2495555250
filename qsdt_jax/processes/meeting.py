"""Processes meet before they are one run: each comes to process 0, which waits until all are there.

JAX's coordination service aborts with a stack trace where a process is missing or has the id of another one,
and ends a run that has begun where one comes too late. So they meet over plain connections first, on the port
that the service takes afterwards. They keep the connections: the system closes them with the process.
"""

import contextlib
import dataclasses
import ipaddress
import json
import os
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any

from qsdt_jax.errors import UserError

BIND_VARIABLE = "JAX_COORDINATOR_BIND_ADDRESS"  # As JAX knows it.
RETRY_SECONDS = 0.1
LINGER_SECONDS = 5  # For which a refusal waits for those that are still on their way.
GREETING_BYTES = 1000  # What says more before the end of its line is no process of ours.


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Processes that have met.

    Attributes:
      index, count: of this process, of all.
      connections: from process 0 to each other one by its index, from another one to process 0. Nobody says
        anything over them.
      bind_address: of process 0, HOST:PORT where JAX's service has to listen; None in the others.
    """

    index: int
    count: int
    connections: Mapping[int, socket.socket]
    bind_address: str | None = None


def meet(address: str, count: int, index: int, timeout: float) -> Meeting:
    """Waits until all processes have come to process 0.

    Args:
      address: HOST:PORT or [HOST]:PORT where process 0 listens; nobody does any more when it returns.
      count, index: number of processes and of this one.
      timeout: seconds to wait for the others.

    Raises:
      UserError: no such address; a process does not come, has the id of another one, or counts differently.
    """
    host, port = parsed(address)
    deadline = time.monotonic() + timeout
    if index == 0:
        try:
            server = _listening(host, port)
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen at {address}: {os.strerror(error.errno or 0)}; "
                "does another process have process_id=0, or another program the port?"
            ) from None
        place = server.getsockname()[0]
        with _Entrance(server) as entrance:
            members = _gather(entrance, count, address, deadline, timeout)
        for connection in members.values():  # Only now that the port is free for JAX's service.
            _answer(connection, None)
        return Meeting(0, count, members, f"[{place}]:{port}" if ":" in place else f"{place}:{port}")
    greeting = json.dumps({"process": index, "count": count}).encode() + b"\n"
    while True:
        connection = None
        answer = b""
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, port), max(RETRY_SECONDS, _left(deadline)))
            connection.sendall(greeting)
            # Process 0 gives up first, and says so.
            connection.settimeout(_left(deadline) + LINGER_SECONDS)
            answer = connection.makefile("rb").readline(GREETING_BYTES)
        if connection is not None and answer.startswith(b"{"):
            if error := json.loads(answer)["error"]:
                raise UserError(error)
            return Meeting(index, count, {0: _kept(connection)})
        if answer:  # JAX's service, as it speaks to everybody.
            raise UserError(
                f"the run at {address} has begun with all its {count} processes, or another program listens "
                "there; does another one have the process_id of this one?"
            )
        if connection is not None:
            connection.close()
        if _left(deadline) <= 0:
            raise UserError(
                f"no answer from the coordinator at {address} in {timeout:g} s; process 0 must run "
                f"there, and process {index} reach it"
            )
        time.sleep(RETRY_SECONDS)


def parsed(address: str, name: str = "coordinator") -> tuple[str, int]:
    """Host and port of HOST:PORT, or of [HOST]:PORT where HOST has colons, as an IPv6 address does.

    Raises:
      UserError: it is neither, or no host can be called so; the message calls it by `name`.
    """
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 2**16:
        raise UserError(f"{name}={address} is not HOST:PORT")
    if ":" in host and not bracketed:  # JAX's service cannot tell where the port begins.
        raise UserError(f"{name}={address} is not HOST:PORT; an IPv6 address stands in brackets, [HOST]:PORT")
    try:
        host.encode("idna")
    except UnicodeError:
        raise UserError(f"{name}={address} is not HOST:PORT; no host is called {host!r}") from None
    return host, int(port)


class _Entrance:
    """Where process 0 hears who comes; who stays silent, or is no process of a run, holds up nobody."""

    def __init__(self, server: socket.socket):
        self._server, self._selector = server, selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)

    def __enter__(self) -> "_Entrance":
        return self

    def __exit__(self, *exception) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # pyright: ignore[reportAttributeAccessIssue] (a socket)
        self._selector.close()

    def arrival(self) -> tuple[socket.socket, int, int] | None:
        """One that came, with its process and count; None where nobody did for a moment."""
        for key, _ in self._selector.select(RETRY_SECONDS):
            connection: Any = key.fileobj
            if connection is self._server:
                self._selector.register(self._server.accept()[0], selectors.EVENT_READ, bytearray())
                continue
            chunk = b""
            with contextlib.suppress(OSError):
                chunk = connection.recv(GREETING_BYTES)
            key.data.extend(chunk)
            if chunk and b"\n" not in key.data and len(key.data) < GREETING_BYTES:
                continue
            self._selector.unregister(connection)
            try:
                said = json.loads(key.data)
                return _kept(connection), int(said["process"]), int(said["count"])
            except (ValueError, KeyError, TypeError):
                connection.close()
        return None


def _gather(
    entrance: _Entrance, count: int, address: str, deadline: float, timeout: float
) -> dict[int, socket.socket]:
    """The connections of all others; raises UserError once all of them have been told the same."""
    came: list[socket.socket] = []
    members: dict[int, socket.socket] = {}
    error = None
    while not error and len(members) < count - 1:
        arrival = entrance.arrival()
        # Who has gone may come again, started anew.
        members = {number: one for number, one in members.items() if not _ended(one)}
        if arrival is not None:
            connection, number, other_count = arrival
            came.append(connection)
            if other_count != count:
                error = f"num_processes is {count} for process 0 and {other_count} for process {number}"
            elif number in members:
                error = f"two processes have process_id={number}"
            members[number] = connection
        elif _left(deadline) <= 0:
            missing = min(set(range(1, count)) - members.keys())
            error = f"process {missing} of {count} did not come to {address} in {timeout:g} s"
    if not error:
        return members
    for connection in came:
        _answer(connection, error)
    until = time.monotonic() + min(LINGER_SECONDS, _left(deadline))
    while len(came) < count - 1 and _left(until) > 0:
        if arrival := entrance.arrival():
            came.append(arrival[0])
            _answer(arrival[0], error)
    raise UserError(error)


def _listening(host: str, port: int) -> socket.socket:
    """Listens at the address given and no other, where it is one of this host's; else at all of them.

    Raises:
      OSError: the port is taken, or not for everybody.
    """
    if own := os.environ.get(BIND_VARIABLE):
        host = parsed(own, BIND_VARIABLE)[0]
    found = []
    with contextlib.suppress(OSError):  # A name that only the others know.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, _, _, _, (place, *_) in found:
        # A host may call itself by an address that no other one reaches: 127.0.1.1 in Debian's /etc/hosts.
        if ipaddress.ip_address(place).is_loopback and host not in ("localhost", place):
            continue
        with contextlib.suppress(OSError):
            return socket.create_server((place, port), family=family, dualstack_ipv6=place == "::")
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6)


def _kept(connection: socket.socket) -> socket.socket:
    """The connection, set so that it ends in half a minute also where the other host has vanished."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return connection


def _answer(connection: socket.socket, error: str | None) -> None:
    with contextlib.suppress(OSError):  # Who has gone needs no answer.
        connection.sendall(json.dumps({"error": error}).encode() + b"\n")


def _ended(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection; it must have nothing to say now."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
