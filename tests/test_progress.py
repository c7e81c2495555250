"""Rates and the time left, by a clock that the test moves."""

import os
import signal

import pytest

from qsdt_jax.processes.preemption import Preemption
from qsdt_jax.progress import Progress


class Clock:
    """Stands for time.monotonic."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("qsdt_jax.progress.time.monotonic", clock)
    return clock


def test_a_lap_is_the_rate_of_its_own_steps(clock):
    progress = Progress(100, 40, 8, shown=False)
    assert progress.lap() == 0
    clock.now += 2
    progress.update(50, "")
    assert progress.lap() == 10 * 8 / 2
    clock.now += 5
    progress.update(51, "")
    clock.now += 5
    progress.update(60, "")
    assert progress.lap() == 10 * 8 / 10
    assert progress.lap() == 0


def test_time_aside_is_no_time_of_steps(clock):
    """Nor where the work ends with an exception."""
    progress = Progress(100, 0, 8, shown=False)
    clock.now += 1
    with progress.aside():
        clock.now += 50
    with pytest.raises(KeyboardInterrupt), progress.aside():
        clock.now += 50
        raise KeyboardInterrupt
    clock.now += 3
    progress.update(10, "")
    assert progress.lap() == 10 * 8 / 4


def test_the_line(clock, capsys):
    """The rate is the mean of the steps, the time left is that of what happens between them as well."""
    progress = Progress(100, 50, 8)
    clock.now += 10
    with progress.aside():
        clock.now += 30
    progress.update(60, "loss 1")
    clock.now += 1
    progress.update(61, "too early for another line")
    assert capsys.readouterr().err == "step 60/100  8 images/s  02:40 left  loss 1\n"


class Gone:
    """A terminal that is gone, or a log on a full disk."""

    def __init__(self, terminal: bool):
        self.isatty, self.asked = lambda: terminal, 0

    def write(self, *text):
        self.asked += 1
        raise OSError(28, "No space left on device")

    flush = fileno = write


@pytest.mark.parametrize("terminal", [True, False])
def test_what_cannot_be_printed_ends_nothing(monkeypatch, terminal):
    gone = Gone(terminal)
    monkeypatch.setattr("sys.stderr", gone)
    progress = Progress(3, 0, 8)
    for step in (1, 2, 3):
        progress.update(step, "loss 1")
    progress.say("a line")
    progress.close()
    assert gone.asked


def test_a_signal_is_heard_though_nobody_can_be_told(monkeypatch):
    monkeypatch.setattr("sys.stderr", Gone(True))
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested
