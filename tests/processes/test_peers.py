"""Processes that have met agree, part, and leave together when one of them has to."""

import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from jax._src.lib import _jax

from qsdt_jax.errors import UserError
from qsdt_jax.processes import peers
from qsdt_jax.processes.peers import Peers
from tests.processes.test_meeting import Process, free_port

SECONDS = 20


class Left(list):
    """The statuses of processes that have left."""

    def wait(self, count: int) -> list[int]:
        deadline = time.monotonic() + SECONDS
        while len(self) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return self


@pytest.fixture
def left(monkeypatch) -> Left:
    """The threads that would end the process do nothing more instead."""
    left = Left()

    def leave(status: int):
        left.append(status)
        threading.Event().wait()

    monkeypatch.setattr(peers, "_exit", leave)
    monkeypatch.setattr(peers, "_silence", lambda: None)
    monkeypatch.setattr(peers, "LEAVE_SECONDS", 0.5)  # Connections of threads do not end with them.
    return left


@pytest.fixture
def three(left) -> Iterator[list[Peers]]:
    """In this process, over a service of its own."""
    address = f"127.0.0.1:{free_port()}"
    processes = [Process(address, index, 3) for index in range(3)]
    assert [process.answer() for process in processes] == [""] * 3
    service = _jax.get_distributed_runtime_service(address, 3)
    clients = [
        _jax.get_distributed_runtime_client(address, index, init_timeout=SECONDS) for index in range(3)
    ]
    at_once(*[client.connect for client in clients])
    found = [Peers(process.meeting) for process in processes if process.meeting]
    for one, client in zip(found, clients, strict=True):
        one.watch()
        one.connect(client)
    yield found
    at_once(*[client.shutdown for client in clients])
    service.shutdown()


def at_once(*calls: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def answer(one: Peers, *, ready: bool, stop: bool = False) -> bool:
    deadline = time.monotonic() + SECONDS
    while (found := one.agree(ready, stop)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def answers(peers: list[Peers], **how) -> list[bool]:
    """What each gets where all wait at once."""
    found: list[bool | None] = [None] * len(peers)

    def one(i: int) -> None:
        found[i] = answer(peers[i], **{name: value[i] for name, value in how.items()})

    at_once(*[functools.partial(one, i) for i in range(len(peers))])
    return found


def end(one: Peers) -> None:
    """Its connections, as the system does when its process ends."""
    for connection in one.meeting.connections.values():
        connection.shutdown(socket.SHUT_RDWR)


def test_the_same_facts_are_no_matter(three, left):
    facts = {"config": {"model": {"bits": 4, "channels": (8, 8)}}}
    at_once(*[functools.partial(one.require_same, facts) for one in three])
    assert left == []


def test_other_configuration_or_code_ends_all(three, left, capsys):
    mine, other = {"config": {"bits": 4}, "code": "a"}, {"config": {"bits": 2}, "code": "b"}
    line = "processes 0 and 1 run different things: code is 'a' and 'b'; config.bits is 4 and 2"
    three[0].require_same(mine)
    three[2].require_same(mine)
    with pytest.raises(UserError) as error:
        three[1].require_same(other)
    threading.Thread(target=three[1].refuse, args=(error.value,), daemon=True).start()
    assert left.wait(3) == [2, 2, 2]
    assert capsys.readouterr().err.splitlines() == [f"error: {line}"] * 3


def test_all_go_on_once_all_are_ready(three):
    for _ in range(2):
        assert three[2].agree(True, False) is None
        assert three[0].agree(True, False) is None
        assert answers(three, ready=[True] * 3) == [True] * 3
    # One that stops after the decision stops the next round, also for those that are ready.
    assert answers(three, ready=[True, False, True], stop=[False, True, False]) == [False] * 3


def test_a_decision_holds_for_one_that_wants_to_stop_after_it(three):
    assert three[0].agree(True, False) is None
    assert three[1].agree(True, False) is None
    assert three[2].agree(True, False) is True
    assert three[0].agree(True, True) is True
    assert three[0].agree(True, True) is False
    assert three[1].agree(True, False) is True
    assert three[1].agree(False, False) is False


@pytest.mark.parametrize("who", [0, 1])
def test_all_part_together(three, left, who):
    threads = [threading.Thread(target=one.part, daemon=True) for one in three]
    for i, thread in enumerate(threads):
        if i != who:
            thread.start()
    threads[1 - who].join(0.3)
    assert threads[1 - who].is_alive()
    threads[who].start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    end(three[1])
    time.sleep(0.2)
    assert left == []


@pytest.mark.parametrize("who", [0, 1])
def test_a_refusal_is_told_by_all_and_the_save_under_way_finished(three, left, who, capsys):
    saved = []
    for i in range(3):
        three[i].before_leaving = lambda i=i: saved.append(i)
    error = UserError("the disk\nis full")
    threading.Thread(target=three[who].refuse, args=(error,), daemon=True).start()
    assert left.wait(3) == [2, 2, 2]
    assert sorted(saved) == [0, 1, 2]
    assert capsys.readouterr().err.splitlines() == ["error: the disk is full"] * 3


@pytest.mark.parametrize("who", [0, 2])
def test_a_death_ends_the_others(three, left, who, capsys):
    three[who]._leaving.acquire()  # A dead one says nothing.
    end(three[who])
    assert left.wait(2) == [1, 1]
    told = capsys.readouterr().err
    for i in {0, 1, 2} - {who}:
        assert f"process {who} of 3 ended before the run did, so process {i} stops; started again" in told
