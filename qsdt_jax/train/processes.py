"""Several processes that are one run: they meet, compare what they run, watch each other and part together.

JAX's own service does the work, but where a process is missing, has the id of another one or dies, it aborts
with a stack trace or waits for minutes. So each process keeps a plain connection to process 0 besides, over
which they meet first; when one breaks off, all stop with one line. Nothing is lost by that: the next start
goes on from the last checkpoint.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsdt_jax.errors import UserError
from qsdt_jax.train.preemption import Preempted
from qsdt_jax.train.workdir import changes

AUTOMATIC = "auto"
RETRY_SECONDS = 0.1
HEARTBEAT_SECONDS = 60  # After which JAX gives up a process that is silent, but still connected.
USER_STATUS, LOST_STATUS = 2, 1
# After a peer's death the connection tells within this time; JAX's error may come first.
PATIENCE_SECONDS = 10


def is_first() -> bool:
    """Whether this process writes what a run leaves behind."""
    return jax.process_index() == 0


@contextlib.contextmanager
def joined(
    address: str, count: int | None, index: int | None, facts: Mapping[str, Any], *, timeout: float
) -> Iterator[None]:
    """One run of several processes, from the start to the end of all.

    Args:
      address: HOST:PORT of process 0, where it listens; "auto" for a cluster that JAX knows (Slurm, Open MPI,
        TPU pods, Kubernetes).
      count, index: number of processes and of this one; with "auto" JAX finds them.
      facts: nested plain data that must be the same in all processes.
      timeout: seconds to wait for the others.

    Raises:
      UserError: no such address; a process does not come or has the id of another one; facts that differ.
      Preempted: as raised inside; the processes have parted. Any other error inside ends the process at once,
        because JAX waits for all others when it exits; a UserError with status 2.
    """
    if address == AUTOMATIC:
        _initialize_automatically(timeout)
        try:
            peers = _meet(_common_address(), jax.process_count(), jax.process_index(), facts, timeout)
        except UserError as error:
            _refuse(error)
    else:
        if count is None or index is None or not 0 <= index < count:
            raise UserError(
                f"--coordinator={address} needs --num_processes=N and --process_id=0..N-1, "
                f"found {count} and {index}"
            )
        peers = _meet(_parsed(address), count, index, facts, timeout)
        _initialize(timeout, peers.service, count, index)
    peers.watch()
    try:
        yield
    except Preempted:
        peers.part()
        raise
    except UserError as error:
        _refuse(error)
    except Exception:
        time.sleep(PATIENCE_SECONDS)  # If a collective failed because a peer died, the watch tells that.
        _leave(traceback.format_exc(), LOST_STATUS)
    except KeyboardInterrupt:
        _leave("stopped", LOST_STATUS)
    peers.part()


def require_same(name: str, value: int) -> None:
    """Compares a number of this process with that of all others.

    Raises:
      UserError: they differ; in all processes alike.
    """
    if jax.process_count() == 1:
        return
    found = np.asarray(multihost_utils.process_allgather(np.asarray(value, np.int32))).reshape(-1)
    if len(set(found.tolist())) > 1:
        raise UserError(
            f"{name} is not the same in all processes: {found.tolist()}; does each see the same workdir?"
        )


class Vote:
    """Whether any process has raised its hand, known to all of them at the same call.

    The answer is that of the call before, so nobody waits for it.
    """

    def __init__(self):
        mesh = Mesh(np.asarray(jax.devices()), ("devices",))
        self._rows = NamedSharding(mesh, PartitionSpec("devices"))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._running: jax.Array | None = None

    def call(self, hand: bool) -> bool:
        """Raises this process's hand or not; True where one was raised at the call before."""
        answer = self._running
        hands = np.full(jax.local_device_count(), hand)
        self._running = self._any(jax.make_array_from_process_local_data(self._rows, hands))
        return answer is not None and bool(answer)


class _Peers:
    """Connections between process 0 and each other one."""

    def __init__(self, index: int, count: int, service: str, connections: dict[int, "_Line"]):
        self.index, self.count, self.service = index, count, service
        self._connections = connections
        self._parting = False

    def watch(self) -> None:
        """Ends this process as soon as a connection breaks off."""
        for other, line in self._connections.items():
            threading.Thread(target=self._listen, args=(other, line), daemon=True).start()

    def part(self) -> None:
        """Waits until all processes are as far, and ends the connections."""
        multihost_utils.sync_global_devices("end of the run")
        self._parting = True
        jax.distributed.shutdown()

    def _listen(self, other: int, line: "_Line") -> None:
        try:
            lost = line.receive(None)["lost"]
        except (OSError, ValueError):
            lost = other
        if self._parting:
            return
        if self.index == 0:
            for number, connection in self._connections.items():
                if number != lost:
                    with contextlib.suppress(OSError):
                        connection.send({"lost": lost})
        _leave(
            f"error: process {lost} of {self.count} ended before the run did, so process {self.index} stops; "
            "started again, all go on from the last checkpoint",
            LOST_STATUS,
        )


class _Line:
    """One JSON value a line, over a connection."""

    def __init__(self, connection: socket.socket):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):  # A host that vanished says nothing.
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        self._connection, self._stream = connection, connection.makefile("rb")

    def send(self, value: Any) -> None:
        self._connection.sendall(json.dumps(value).encode() + b"\n")

    def receive(self, timeout: float | None) -> Any:
        """The next value; raises OSError or ValueError at the end of the connection or of the time."""
        self._connection.settimeout(timeout)
        return json.loads(self._stream.readline())


def _meet(
    address: tuple[str, int], count: int, index: int, facts: Mapping[str, Any], timeout: float
) -> _Peers:
    """Process 0 hears all others, compares, and tells all of them what it found."""
    deadline = time.monotonic() + timeout
    mine = {"process": index, "count": count, "facts": json.loads(json.dumps(facts))}
    if index == 0:
        return _host(address, mine, deadline, timeout)
    place = f"{address[0]}:{address[1]}"
    silence = UserError(
        f"no answer from the coordinator at {place} in {timeout:g} s; process 0 must run there, "
        f"and process {index} reach it"
    )
    while True:
        try:
            line = _Line(socket.create_connection(address, timeout=max(RETRY_SECONDS, _left(deadline))))
            line.send(mine)
            answer = line.receive(_left(deadline) + 1)  # Process 0 gives up first, and says so.
        except (OSError, ValueError):
            if _left(deadline) <= 0:
                raise silence from None
            time.sleep(RETRY_SECONDS)
            continue
        if answer["error"]:
            raise UserError(answer["error"])
        return _Peers(index, count, answer["service"], {0: line})


def _host(address: tuple[str, int], mine: Mapping[str, Any], deadline: float, timeout: float) -> _Peers:
    count, place = mine["count"], f"{address[0]}:{address[1]}"
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        server = socket.create_server(
            ("", address[1]), family=family, dualstack_ipv6=family == socket.AF_INET6
        )
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at {place}: {error.strerror}; "
            "does another process have --process_id=0, or another program the port?"
        ) from None
    lines: dict[int, _Line] = {}
    error = None
    with server, contextlib.closing(socket.create_server(("", 0))) as reserved:
        service = f"{address[0]}:{reserved.getsockname()[1]}"
        while len(lines) < count - 1 and not error:
            server.settimeout(max(RETRY_SECONDS, _left(deadline)))
            try:
                line = _Line(server.accept()[0])
                other = line.receive(RETRY_SECONDS + _left(deadline))
                number = other["process"]
            except (OSError, ValueError, KeyError, TypeError):
                if _left(deadline) <= 0:
                    missing = sorted(set(range(1, count)) - lines.keys())
                    error = f"process {missing[0]} of {count} did not come to {place} in {timeout:g} s"
                continue
            error = _disagreement(mine, other) or (
                f"two processes have --process_id={number}" if number in lines else None
            )
            if number in lines and error:
                line.send({"error": error})
            lines.setdefault(number, line)
    for line in lines.values():
        with contextlib.suppress(OSError):
            line.send({"error": error, "service": service})
    if error:
        raise UserError(error)
    return _Peers(0, count, service, lines)


def _disagreement(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """One line where another process cannot be part of this run."""
    number, count = other["process"], mine["count"]
    if other["count"] != count:
        return f"--num_processes is {count} for process 0 and {other['count']} for process {number}"
    shown = [
        f"{key} is {here!r} and {there!r}" for key, here, there in changes(mine["facts"], other["facts"])
    ]
    return f"processes 0 and {number} run different things: {'; '.join(shown[:3])}" if shown else None


def _initialize_automatically(timeout: float) -> None:
    try:
        _initialize(timeout)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"--coordinator={AUTOMATIC}: JAX finds no cluster here ({error}); "
            "give --coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from None


def _common_address() -> tuple[str, int]:
    """A free port of process 0's host, which is the same for all."""
    with socket.create_server(("", 0)) as server:
        mine = f"{socket.gethostbyname(socket.gethostname())}:{server.getsockname()[1]}".encode()
    text = np.zeros(256, np.uint8)
    text[: len(mine)] = list(mine)
    common = bytes(np.asarray(multihost_utils.broadcast_one_to_all(text)).tolist()).rstrip(b"\0")
    return _parsed(common.decode())


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={address} is not HOST:PORT")
    return host, int(port)


def _initialize(timeout: float, *where: Any) -> None:
    # Signals are the loop's, which all processes follow together.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        *where,
        initialization_timeout=max(1, int(timeout)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )


def _leave(text: str, status: int) -> NoReturn:
    """Ends the process at once, also where its main thread waits for a process that is gone."""
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _refuse(error: UserError) -> NoReturn:
    _leave(f"error: {' '.join(str(error).split())}", USER_STATUS)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
