"""A run that is killed or stopped, and started again, ends as if nothing had happened.

Killed is a run of a whole network. Stops are the loop's matter, and are tried on a network of one block.
"""

import signal
from pathlib import Path

import pytest

from tests.train.runs import CONFIG, LIGHT, Signal, outcome, run

KILL, TERM, INT = signal.Signals.SIGKILL, signal.Signals.SIGTERM, signal.Signals.SIGINT
STOP_SECONDS = 10
SECOND_DEADLINE = 120  # For a start and six steps; a signal without effect would make it the whole.

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def outcome_of_one_start(config: Path, workdir: Path, cache: Path) -> dict:
    ended = run(workdir, cache, config=config)
    assert ended.status == 0, ended
    found = outcome(workdir)
    # What the comparison rests on is there.
    assert found["step"] == 20 and found["steps"][-1] == 20
    groups = {name.split("/")[0] for name in found["state"]}
    assert groups == {"step", "variables", "opt_state", "ema"}
    assert any(name.endswith("/mean") for name in found["state"])  # Of batch norm.
    assert [line["step"] for line in found["log"] if "train/loss" in line] == list(range(1, 21))
    assert [line["step"] for line in found["log"] if "eval_ema/top1" in line] == [10, 20]
    return found


KILLS = [
    Signal(KILL, "compiling", 1),
    Signal(KILL, "saving", 1),
    Signal(KILL, "logged", 5),
    Signal(KILL, "evaluating", 2),
    Signal(KILL, "saved", 1),
    Signal(KILL, "training", 9),
    Signal(KILL, "summary", 1),
]


def test_killed_again_and_again(tmp_path, cache):
    uninterrupted = outcome_of_one_start(CONFIG, tmp_path / "uninterrupted", cache)
    for signal_ in KILLS:
        ended = run(tmp_path / "run", cache, signal=signal_)
        assert ended.status == -KILL, (signal_, ended)
    ended = run(tmp_path / "run", cache)
    assert ended.status == 0, ended
    assert outcome(tmp_path / "run") == uninterrupted


# Chosen so that whatever the run is ahead by when a signal arrives, it has not been evaluated at step 10
# before the fifth, and is not finished before the last.
STOPS = [
    Signal(INT, "compiling", 1, block=True),
    Signal(TERM, "training", 1, block=True),
    Signal(TERM, "training", 6),
    Signal(INT, "saving", 1),
    Signal(INT, "evaluating", 2),
    Signal(TERM, "evaluating", 5, block=True),
    Signal(INT, "logged", 1),
    Signal(INT, "training", 4, block=True),
]


@pytest.fixture(scope="module")
def light(tmp_path_factory, cache) -> dict:
    return outcome_of_one_start(LIGHT, tmp_path_factory.mktemp("light") / "run", cache)


def test_stopped_again_and_again(tmp_path, cache, light):
    for signal_ in STOPS:
        ended = run(tmp_path / "run", cache, signal=signal_, config=LIGHT)
        assert ended.status == 0, (signal_, ended)
        ended.assert_one_line(signal_.number.name, "the same command")
        assert ended.seconds < STOP_SECONDS, (signal_, ended)
    ended = run(tmp_path / "run", cache, config=LIGHT)
    assert ended.status == 0, ended
    assert outcome(tmp_path / "run") == light


def test_a_second_ctrl_c_does_not_wait_for_the_save(tmp_path, cache, light):
    """It ends the process at once, with one line; the run goes on from the checkpoint before."""
    twice = Signal(INT, "training", 6, again=True)
    ended = run(tmp_path / "run", cache, signal=twice, config=LIGHT, deadline=SECOND_DEADLINE)
    assert ended.status == 128 + INT, ended
    ended.assert_one_line("SIGINT again: stopped at once", "the last checkpoint")
    assert ended.seconds < STOP_SECONDS, ended
    ended = run(tmp_path / "run", cache, config=LIGHT)
    assert ended.status == 0, ended
    assert outcome(tmp_path / "run") == light
