"""Learning rates by step against their formulas, and those of mmengine (tests/golden/schedules.json)."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from qsdt_jax.train.schedules import warmup_cosine, warmup_multistep, warmup_polynomial, warmup_within

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "schedules.json").read_text())


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_schedule():
    """Up in a straight line, down half a cosine to 1e-6, one value a step."""
    peak, warm, steps = 0.5, 4, 20
    schedule = warmup_cosine(peak, warm, steps)
    found = [float(schedule(step)) for step in range(steps + 1)]
    rising = [peak * step / warm for step in range(warm)]
    shares = [(step - warm) / (steps - warm) for step in range(warm, steps + 1)]
    falling = [1e-6 + (peak - 1e-6) * (1 + math.cos(math.pi * share)) / 2 for share in shares]
    np.testing.assert_allclose(found, rising + falling, rtol=1e-12, atol=1e-15)
    assert float(warmup_cosine(peak, 0, steps)(0)) == peak
    assert float(warmup_cosine(1e-7, 0, steps)(steps)) == pytest.approx(1e-7, rel=1e-12)


@pytest.mark.parametrize("warm", [20, 21])
def test_a_schedule_that_cannot_fall(warm):
    with pytest.raises(ValueError, match="positive"):
        warmup_cosine(0.5, warm, 20)


@pytest.mark.parametrize(
    ("asked", "steps", "expected"),
    [
        *((3, 20, 3), (0.4, 20, 0), (18, 20, 18), (19, 20, 9), (20, 20, 9), (30, 20, 9), (1e308, 21, 10)),
        *((0, 1, 0), (1, 1, 0), (0, 2, 0), (1, 2, 0), (0, 3, 0), (1, 3, 1), (2, 3, 1)),
    ],
)
def test_warmup_leaves_a_step_that_falls(asked, steps, expected):
    assert warmup_within(asked, steps) == expected


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("seg")])
def test_polynomial(name):
    golden = GOLDEN[name]
    schedule = warmup_polynomial(golden["base_lr"], golden["warmup"], golden["total"], golden["power"])
    for step, rate in golden["lr"].items():
        assert float(schedule(int(step))) == pytest.approx(rate, rel=1e-10, abs=1e-18), step


def test_polynomial_without_warmup():
    assert [float(warmup_polynomial(2.0, 0, 5, 1.0)(step)) for step in range(6)] == [2, 1.5, 1, 0.5, 0, 0]


@pytest.mark.parametrize("warm", [1, 2, 4])
def test_polynomial_reaches_its_peak_in_the_last_step_of_the_warmup(warm):
    schedule = warmup_polynomial(2.0, warm, 10)
    assert float(schedule(warm - 1)) == float(schedule(warm)) == 2.0 > float(schedule(warm + 1))


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("det")])
def test_multistep(name):
    golden = GOLDEN[name]
    drops = [epoch * golden["steps_per_epoch"] for epoch in golden["milestones"]]
    schedule = warmup_multistep(golden["base_lr"], golden["warmup"], drops)
    for step, rate in golden["lr"].items():
        assert float(schedule(int(step))) == pytest.approx(rate, rel=1e-10), step


@pytest.mark.parametrize("warm", [0, 1])
def test_multistep_without_warmup(warm):
    found = [float(warmup_multistep(2.0, warm, (4, 2))(step)) for step in range(6)]
    np.testing.assert_allclose(found, [2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-12)


def test_a_drop_within_the_warmup():
    found = [float(warmup_multistep(2.0, 3, (1,))(step)) for step in range(4)]
    np.testing.assert_allclose(found, [0.002, 0.1001, 0.2, 0.2], rtol=1e-12)


def test_a_polynomial_that_cannot_fall():
    with pytest.raises(ValueError, match="less than two of 20 steps"):
        warmup_polynomial(0.5, 19, 20)
