import pytest

from benchmarks import in_turn
from benchmarks.in_turn import Way, ratio, seconds_in_turn


class Clock:
    """Time that passes with steps and waits alone, and what has used it."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def way(self, name: str, seconds: float, waiting: float = 0.0) -> Way:
        def step():
            self.now += seconds
            self.log.append(name)
            return name

        def wait(last):
            assert last == name
            self.now += waiting

        return Way(step, wait)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(in_turn.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(in_turn.time, "sleep", clock.sleep)
    return clock


def test_ways_take_turns_and_quick_ones_several_steps_a_turn(clock):
    ways = {"slow": clock.way("slow", 2.0), "quick": clock.way("quick", 0.1, waiting=0.05)}
    found = seconds_in_turn(ways, 3)
    two = ["quick"] * 2  # 0.25 s hold one step of 0.15 s and a part of another.
    assert clock.log == ["slow", "quick", "slow", *two, *two, "slow", "slow", *two]
    assert found == {"slow": pytest.approx([2.0] * 3), "quick": pytest.approx([0.125] * 3)}


def test_a_ratio_is_that_of_each_round():
    """A round in which the machine was slow counts no more than others."""
    found = ratio([1.0, 10.0, 1.0, 1.0, 1.0], [2.0, 20.0, 3.0, 1.0, 2.0])
    assert found == {"median": 2.0, "lower_quartile": 2.0, "upper_quartile": 2.0, "min": 1.0, "max": 3.0}


def test_a_ratio_of_one_round():
    assert set(ratio([2.0], [3.0]).values()) == {1.5}
