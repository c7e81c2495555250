"""Processes that have met agree, part, and leave together when one of them has to."""

import threading
import time

import pytest

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
    monkeypatch.setattr(peers, "LEAVE_SECONDS", 0.5)  # Connections of threads do not end with them.
    return left


@pytest.fixture
def three(left) -> list[Peers]:
    address = f"127.0.0.1:{free_port()}"
    processes = [Process(address, index, 3) for index in range(3)]
    assert [process.answer() for process in processes] == [""] * 3
    found = [Peers(process.meeting) for process in processes if process.meeting]
    for one in found:
        one.watch()
    return found


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

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(len(peers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    return found


def test_all_go_on_once_all_are_ready(three):
    for _ in range(2):
        assert three[2].agree(True, False) is None
        assert three[0].agree(True, False) is None
        assert answers(three, ready=[True] * 3) == [True] * 3
    # One that stops after the decision stops the next round, also for those that are ready.
    assert answers(three, ready=[True, False, True], stop=[False, True, False]) == [False] * 3


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
    three[1].meeting.lines[0].close()
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
    for line in three[who].meeting.lines.values():
        line.close()
    assert left.wait(2) == [1, 1]
    told = capsys.readouterr().err
    for i in {0, 1, 2} - {who}:
        assert f"process {who} of 3 ended before the run did, so process {i} stops; started again" in told
