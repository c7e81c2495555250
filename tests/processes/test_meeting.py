"""Processes meet before JAX is started: one that is missing or twice there is told to all, soon."""

import contextlib
import json
import socket
import threading
import time

import pytest
from jax._src.lib import _jax

from qsdt_jax.errors import UserError
from qsdt_jax.processes import joining, peers
from qsdt_jax.processes.cluster import detected
from qsdt_jax.processes.meeting import Meeting, meet, parsed
from qsdt_jax.processes.preemption import Preempted

DEADLINE = 60
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[07-09]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}


def free_port() -> int:
    with contextlib.closing(socket.create_server(("", 0))) as server:
        return server.getsockname()[1]


def own_address() -> str:
    """One of this host that is no loopback's; "" where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect(("192.0.2.1", 9))  # Nothing is sent.
            return udp.getsockname()[0]
        except OSError:
            return ""


class Process(threading.Thread):
    """One that comes to the meeting; `told` is its refusal, "" for a welcome."""

    def __init__(self, address: str, index: int, count: int, timeout: float = 5.0):
        super().__init__(daemon=True)
        self.told: str | None = None
        self.meeting: Meeting | None = None
        self._come = lambda: meet(address, count, index, timeout)
        self._address = address
        self.start()

    def run(self) -> None:
        try:
            self.meeting = self._come()
            self.told = ""
        except UserError as error:
            self.told = str(error).replace(self._address, "HERE")

    def answer(self) -> str | None:
        self.join(DEADLINE)
        return self.told


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


def met(address: str, *members: tuple, timeout: float = 5.0) -> list[str | None]:
    """What processes (index, count) that come at once are told."""
    return [process.answer() for process in [Process(address, *member, timeout) for member in members]]


def test_all_come(address):
    assert met(address, *[(index, 4) for index in (3, 1, 0, 2)]) == [""] * 4


def test_ids_that_collide(address):
    told = met(address, (0, 3), (1, 3), (1, 3))
    assert told == ["two processes have process_id=1"] * 3
    with contextlib.closing(socket.create_server(("", 0))) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        [told] = met(taken, (0, 2))
    assert told == (
        "process 0 cannot listen at HERE: Address already in use; "
        "does another process have process_id=0, or another program the port?"
    )


def test_other_number_of_processes(address):
    line = "num_processes is 3 for process 0 and 2 for process 1"
    # Process 2 is still on its way when the others are refused, and hears the same.
    first = [Process(address, 0, 3), Process(address, 1, 2)]
    assert first[1].answer() == line
    assert Process(address, 2, 3).answer() == first[0].answer() == line


def test_who_does_not_come_is_not_waited_for_longer_than_asked(address):
    start = time.monotonic()
    told = met(address, (0, 3), (1, 3), timeout=1)
    assert told == ["process 2 of 3 did not come to HERE in 1 s"] * 2
    [told] = met(address, (1, 2), timeout=1)
    assert told is not None and told.startswith("no answer from the coordinator at HERE in 1 s")
    assert time.monotonic() - start < 10


def test_who_stays_silent_or_is_no_process_holds_up_nobody(address):
    start, host = time.monotonic(), Process(address, 0, 2)
    with connected(address), connected(address) as other:
        other.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert [Process(address, 1, 2).answer(), host.answer()] == ["", ""]
    assert time.monotonic() - start < 3


def test_a_process_that_was_started_anew_takes_its_place_again(address):
    host = Process(address, 0, 3)
    killed = connected(address)
    killed.sendall(json.dumps({"process": 1, "count": 3}).encode() + b"\n")
    time.sleep(0.3)
    killed.close()
    others = Process(address, 2, 3), Process(address, 1, 3)
    assert [process.answer() for process in others] == ["", ""]
    assert host.answer() == "" and host.meeting is not None
    for connection in host.meeting.connections.values():
        connection.settimeout(0)
        with pytest.raises(BlockingIOError):
            connection.recv(1)


def test_who_comes_too_late_is_told_so(address):
    """By JAX's service, which has the port by then."""
    host, other = Process(address, 0, 2), Process(address, 1, 2)
    assert host.answer() == other.answer() == ""
    assert host.meeting is not None and host.meeting.bind_address == address
    service = _jax.get_distributed_runtime_service(address, 2)
    late = Process(address, 1, 2).answer()
    assert late is not None and late.startswith("the run at HERE has begun with all its 2 processes")
    service.shutdown()
    assert met(address, (0, 1)) == [""]  # The port is free again.


OWN = own_address()
ALL = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "found", "expected"),
    [
        ("127.0.0.1", ["127.0.0.1"], "127.0.0.1"),
        ("localhost", ["127.0.0.1"], "127.0.0.1"),
        ("node07", ["127.0.1.1"], ALL),  # It reaches nobody else.
        *([("node07", ["127.0.1.1", OWN], OWN)] if OWN else []),
        ("node07", ["203.0.113.7"], ALL),  # Of a router in front of it.
        ("node07", [], ALL),
    ],
)
def test_process_0_listens_nowhere_else(monkeypatch, host, found, expected):
    port = free_port()

    def names(*args, **named):
        if not found:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (place, port)) for place in found]

    monkeypatch.setattr(socket, "getaddrinfo", names)
    assert meet(f"{host}:{port}", 1, 0, 5.0).bind_address == f"{expected}:{port}"
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", f"127.0.0.1:{port}")
    found[:] = ["127.0.0.1"]
    assert meet(f"{host}:{port}", 1, 0, 5.0).bind_address == f"127.0.0.1:{port}"


def connected(address: str) -> socket.socket:
    """A connection to process 0, as soon as it listens."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            return socket.create_connection(parsed(address))
        time.sleep(0.05)
    raise AssertionError(f"nobody listens at {address}")


@pytest.mark.parametrize(
    "address",
    [
        *("host", "host:", ":80", "host:http", "host:0", "host:70000", "host:\N{SUPERSCRIPT TWO}"),
        *("node..x:80", f"{'n' * 64}:80", "[]:80", "::1:80"),
    ],
)
def test_addresses(address):
    with pytest.raises(UserError, match="is not HOST:PORT"):
        parsed(address)


def test_an_ipv6_address_stands_in_brackets():
    assert parsed("[::1]:80") == ("::1", 80)
    assert parsed("node07:80") == ("node07", 80)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_processes_meet_at_an_ipv6_address():
    try:
        with contextlib.closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as server:
            address = f"[::1]:{server.getsockname()[1]}"
    except OSError:
        pytest.skip("this host has no ::1")
    host, other = Process(address, 0, 2), Process(address, 1, 2)
    assert host.answer() == other.answer() == ""
    assert host.meeting is not None and host.meeting.bind_address == address


def test_who_is_who_on_a_cluster(monkeypatch):
    """The meeting is where JAX would have listened."""
    with pytest.raises(UserError) as error:
        detected(1)
    assert str(error.value).startswith("coordinator=auto: JAX finds no cluster here")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert detected(1) == ("node07:61441", 3, 2)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "8476")
    assert detected(1) == ("node07:8476", 3, 2)
    monkeypatch.setenv("SLURM_PROCID", "two")
    with pytest.raises(UserError, match=r"ValueError: .*'two'"):
        detected(1)


def test_a_death_is_told_while_jax_still_connects(address, monkeypatch, capsys):
    left = threading.Event()

    def initialize(*where) -> None:
        assert other.answer() == "" and other.meeting is not None
        other.meeting.connections[0].close()
        assert left.wait(DEADLINE)
        raise Preempted("the process has ended")

    monkeypatch.setattr(peers, "_exit", lambda status: left.set())
    monkeypatch.setattr(joining, "_initialize", initialize)
    monkeypatch.setattr(joining, "_part", lambda peers: None)
    other = Process(address, 1, 2)
    with pytest.raises(Preempted), joining.joined(address, 2, 0, {}, timeout=5):
        pass
    told = capsys.readouterr().err
    assert told.startswith("error: process 1 of 2 ended before the run did, so process 0 stops")
