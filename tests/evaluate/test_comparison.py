"""Rows compared over seeds."""

import math

import pytest

from qsdt_jax.evaluate.comparison import Row, difference, draw, markdown

FIRST = Row(name="first", scores={0: 80.0, 1: 82.0, 2: 84.0})
BETTER = Row(name="better", scores={0: 84.0, 1: 85.9, 2: 88.1})
SAME = Row(name="same", scores={2: 85.0, 0: 79.0, 1: 82.1})
EMPTY = Row(name="empty", scores={}, failures=3)


def test_paired_test():
    """Against a value worked out by hand: differences 4, 3.9, 4.1, so t = 4 / (0.1 / sqrt 3) = 69.3."""
    found = difference(BETTER, FIRST)
    assert found.mean == pytest.approx(4.0)
    t = 4.0 / (0.1 / math.sqrt(3))
    # The distribution function of t with 2 degrees of freedom is closed: 1/2 + t / (2 sqrt(2 + t^2)).
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2), rel=1e-6)
    assert found.verdict == "separated"
    assert difference(SAME, FIRST).verdict == "not separated"


def test_seeds_are_paired_by_their_number():
    """The scores of one seed with those of the same, and only of seeds that both have."""
    shuffled = Row(name="x", scores={2: 88.1, 0: 84.0, 1: 85.9, 9: 0.0})
    assert difference(shuffled, FIRST) == difference(BETTER, FIRST)


def test_without_spread():
    assert difference(FIRST, FIRST).verdict == "equal"
    shifted = Row(name="x", scores={seed: score + 1 for seed, score in FIRST.scores.items()})
    assert difference(shifted, FIRST).verdict == "separated"
    assert difference(Row(name="x", scores={0: 81.0}), FIRST).verdict == "too few seeds"
    assert difference(EMPTY, FIRST).verdict == "too few seeds"


def test_table():
    lines = markdown([FIRST, BETTER, EMPTY], "top-1", {"images/s": {"better": "12"}}).splitlines()
    assert lines[0] == "| row | top-1 | std | seeds | against | difference | p | paired test | images/s |"
    assert lines[2] == "| first | 82.00 | 2.00 | 3 |  |  |  |  |  |"
    assert lines[3] == "| better | 86.00 | 2.05 | 3 | first | +4.00 | < 0.001 | separated | 12 |"
    assert lines[4] == "| empty | - | - | 0 (3 failed) | first | - | - | too few seeds |  |"


def test_rows_are_compared_with_the_one_that_is_named():
    lines = markdown([FIRST, SAME, BETTER], "top-1", against={"better": "same"}).splitlines()
    assert lines[3].startswith("| same | 82.03 | 3.00 | 3 | first | +0.03 |")
    assert lines[4].startswith("| better | 86.00 | 2.05 | 3 | same | +3.97 |")


def test_picture(tmp_path):
    draw([FIRST, EMPTY, Row(name="one", scores={0: 3.0})], "top-1", "study", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
