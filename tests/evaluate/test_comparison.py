"""Rows compared over seeds."""

import itertools
import math

import numpy as np
import pytest

from qsdt_jax.evaluate.comparison import (
    FEWEST_SEEDS,
    LEGEND,
    Row,
    difference,
    draw,
    markdown,
    sign_flip_test,
)

FIRST = Row(name="first", scores={0: 80.0, 1: 82.0, 2: 84.0})
BETTER = Row(name="better", scores={0: 84.0, 1: 85.9, 2: 88.1})
SAME = Row(name="same", scores={2: 85.0, 0: 79.0, 1: 82.1})
EMPTY = Row(name="empty", scores={}, failures=3)
ONE_IMAGE = 100 / 360


def rows_of(deltas) -> tuple[Row, Row]:
    """Two rows with these differences, seed by seed, on top of scores that rounding spoils."""
    base = {seed: 100 * (20 + 29 * seed) / 360 for seed in range(len(deltas))}
    better = {seed: score + delta for (seed, score), delta in zip(base.items(), deltas, strict=True)}
    return Row(name="b", scores=better), Row(name="a", scores=base)


def share_of_signs(deltas) -> float:
    """As the sign-flip test is defined, with whole numbers and nothing clever."""
    total = abs(sum(deltas))
    signs = list(itertools.product((-1, 1), repeat=len(deltas)))
    return sum(abs(np.dot(sign, deltas)) >= total for sign in signs) / len(signs)


@pytest.mark.parametrize(
    "deltas",
    [
        (3,),
        (4, -1),
        (1, 1, 1),
        (5, 0, -2, 1),
        (9, 7, 3, 2, -1, 4),
        (1, -1, 1, -1, 1, 1, 1),
        (2, 3) * 5,
        (0,) * 4,
    ],
)
def test_p_is_the_share_of_all_sign_assignments(deltas):
    expected = share_of_signs(deltas)
    assert sign_flip_test(np.array(deltas, float)) == expected
    # Numbers of images as percentages of 360, which no float holds exactly.
    better, first = rows_of([ONE_IMAGE * delta for delta in deltas])
    assert difference(better, first).p == expected
    assert difference(first, better).p == expected


def test_known_values():
    """Of six differences of one sign only all signs kept and all turned are as far from 0: 2 of 64."""
    assert sign_flip_test(np.array([1.0, 2, 3, 4, 5, 6])) == 2 / 64
    # 21 - 2 = 19 is reached by turning +-1 as well, and by nothing else: 4 of 64.
    assert sign_flip_test(np.array([-1.0, 2, 3, 4, 5, 6])) == 4 / 64
    assert math.isnan(sign_flip_test(np.array([])))


def test_fewest_seeds_are_those_that_can_separate():
    """One seed fewer, and no differences whatever have p below 0.05."""
    assert FEWEST_SEEDS == 6
    for seeds in range(1, FEWEST_SEEDS):
        assert sign_flip_test(np.arange(1.0, seeds + 1)) == 2 / 2**seeds > 0.05
    assert sign_flip_test(np.arange(1.0, FEWEST_SEEDS + 1)) < 0.05


@pytest.mark.parametrize("seeds", [2, 3, 5, 6, 7, 12])
@pytest.mark.parametrize("delta", [ONE_IMAGE, -ONE_IMAGE, 13.5])
def test_equal_differences(seeds, delta):
    """Two seeds that differ by one image of 360 say nothing; no number of them has p = 0."""
    found = difference(*rows_of([delta] * seeds))
    assert found.p == 2 / 2**seeds and math.isnan(found.t_test)
    assert found.mean == pytest.approx(delta)
    few = f"too few seeds for a verdict ({seeds} of 6)"
    assert found.verdict == (few if seeds < 6 else "separated")


def test_many_seeds():
    """Beyond 20 the signs are drawn: near what all of them would give, the same each time, and never 0."""
    deltas = np.random.default_rng(0).normal(0.4, 1, 24)
    # All sign assignments by halves: each sum of the first 12 with each of the last 12.
    halves = [np.array(list(itertools.product((-1, 1), repeat=12))) @ half for half in np.split(deltas, 2)]
    sums = np.abs(halves[0][:, None] + halves[1])
    exact = np.mean(sums >= abs(deltas.sum()) - 1e-9)
    found = sign_flip_test(deltas)
    assert 0.01 < exact < 0.3 and found == sign_flip_test(deltas)
    assert abs(found - exact) < 5 * math.sqrt(exact * (1 - exact) / 100_000)
    assert sign_flip_test(np.ones(40)) == 1 / 100_001
    twenty = deltas[:20]
    sums = np.abs(halves[0][:, None] + np.array(list(itertools.product((-1, 1), repeat=8))) @ twenty[12:])
    assert sign_flip_test(twenty, 1e-9) == np.mean(sums >= abs(twenty.sum()) - 1e-8)


def test_paired_t_test():
    """Against a value worked out by hand: differences 4, 3.9, 4.1, so t = 4 / (0.1 / sqrt 3) = 69.3."""
    found = difference(BETTER, FIRST)
    assert found.mean == pytest.approx(4.0)
    t = 4.0 / (0.1 / math.sqrt(3))
    # The distribution function of t with 2 degrees of freedom is closed: 1/2 + t / (2 sqrt(2 + t^2)).
    assert found.t_test == pytest.approx(1 - t / math.sqrt(2 + t**2), rel=1e-6)
    # Which is far below 0.05, and still three seeds are no ground for a verdict.
    assert found.t_test < 0.001 and found.verdict == "too few seeds for a verdict (3 of 6)"


def test_verdict_is_that_of_the_signs():
    """The t-test, which takes the differences for normal, says p = 0.019; 4 of 64 signs are as far off."""
    found = difference(*rows_of([-0.5, 1.0, 3.0, 3.0, 3.0, 3.0]))
    assert (found.p, found.verdict) == (4 / 64, "not separated") and found.t_test < 0.05
    found = difference(*rows_of([1.0, 1.0, 1.0, 1.0, 1.0, 30.0]))
    assert (found.p, found.verdict) == (2 / 64, "separated") and found.t_test > 0.2


def test_seeds_are_paired_by_their_number():
    """The scores of one seed with those of the same, and only of seeds that both have."""
    shuffled = Row(name="x", scores={2: 88.1, 0: 84.0, 1: 85.9, 9: 0.0})
    assert difference(shuffled, FIRST) == difference(BETTER, FIRST)


def test_equal_rows():
    assert difference(FIRST, FIRST).verdict == "equal in 3 seeds" and difference(FIRST, FIRST).p == 1
    noisy = Row(name="x", scores={seed: score * (1 + 1e-15) for seed, score in FIRST.scores.items()})
    assert difference(noisy, FIRST).verdict == "equal in 3 seeds"
    assert difference(EMPTY, FIRST).verdict == "too few seeds for a verdict (0 of 6)"
    assert (
        difference(Row(name="x", scores={0: 81.0}), FIRST).verdict == "too few seeds for a verdict (1 of 6)"
    )


def test_table():
    lines = markdown([FIRST, BETTER, EMPTY], "top-1", {"images/s": {"better": "12"}}).splitlines()
    heading = (
        "| row | top-1 | std | seeds | against | difference | range | p | p (t-test) | verdict | images/s |"
    )
    assert lines[0] == heading
    assert lines[2] == "| first | 82.00 | 2.00 | 3 |  |  |  |  |  |  |  |"
    few = "too few seeds for a verdict"
    compared = f"first | +4.00 | +3.90 to +4.10 | - | - | {few} (3 of 6)"
    assert lines[3] == f"| better | 86.00 | 2.05 | 3 | {compared} | 12 |"
    assert lines[4] == f"| empty | - | - | 0 (3 failed) | first | - | - | - | - | {few} (0 of 6) |  |"
    assert lines[5:] == ["", LEGEND] and "fewer than 6 seeds" in LEGEND and "p < 0.05" in LEGEND
    assert all(line.count("|") == heading.count("|") for line in lines[:5])


def test_table_with_enough_seeds():
    b, a = rows_of([-0.5, 1.0, 3.0, 3.0, 3.0, 3.0])
    line = markdown([a, b], "top-1").splitlines()[3]
    assert line.endswith("| 6 | a | +2.08 | -0.50 to +3.00 | 0.062 | 0.019 | not separated |")


def test_rows_are_compared_with_the_one_that_is_named():
    lines = markdown([FIRST, SAME, BETTER], "top-1", against={"better": "same"}).splitlines()
    assert lines[3].startswith("| same | 82.03 | 3.00 | 3 | first | +0.03 |")
    assert lines[4].startswith("| better | 86.00 | 2.05 | 3 | same | +3.97 |")


def test_picture(tmp_path):
    draw([FIRST, EMPTY, Row(name="one", scores={0: 3.0})], "top-1", "study", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
