import math
import time

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.metric import Metric
from qsdt_jax.workdir.curves import PIECES, draw_curves, extremes, running_mean
from qsdt_jax.workdir.history import History

METRICS = (Metric("top1", "top-1", "%"), Metric("loss", "loss", "nats", larger_is_better=False))


def history_of(steps: int, evaluated: int = 10) -> History:
    history = History()
    for step in range(1, steps + 1):
        history.add(
            step, {"train/loss": 1 / step, "train/learning_rate": 0.1, "train/images_per_second": 9.0}
        )
        if step % evaluated == 0:
            history.add(step, {"eval/loss": 1 / step, "eval/top1": 50.0})
    return history


@pytest.mark.parametrize("steps", [0, 1, 5, 300])
def test_a_picture(tmp_path, steps):
    draw_curves(tmp_path, history_of(steps), METRICS)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and picture.size == (1320, 480)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_the_picture_of_a_long_run_takes_no_longer(tmp_path):
    """It took half a minute: 17 s of a core, and it takes half a second."""
    history = history_of(245_100, evaluated=1)
    start = time.process_time()
    draw_curves(tmp_path, history, METRICS)
    assert time.process_time() - start < 5
    assert (tmp_path / "curves.png").exists()


def test_what_fails_is_one_warning(tmp_path, caplog):
    (tmp_path / "curves.png").mkdir()
    draw_curves(tmp_path, history_of(5), METRICS)
    [told] = caplog.messages
    assert told.startswith("curves.png cannot be drawn: ") and "\n" not in told
    assert not list(tmp_path.glob("*.tmp"))


def test_extremes_are_those_of_the_whole_curve():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2 * PIECES, 2 * PIECES + 1, 3 * PIECES + 7, 100_003):
        steps, values = np.arange(count) * 3, rng.normal(size=count)
        found_steps, found = extremes(steps, values)
        assert len(found) == len(found_steps) <= 2 * PIECES and (np.diff(found_steps) > 0).all()
        assert (values[found_steps // 3] == found).all()
        if count <= 2 * PIECES:
            assert (found == values).all()
        else:
            assert found_steps[[0, -1]].tolist() == steps[[0, -1]].tolist()
            assert {found.min(), found.max()} == {values.min(), values.max()}


def test_running_mean():
    for count in (0, 1, 49, 51, 200, 3 * PIECES, 30_001):
        values = np.random.default_rng(1).normal(size=count)
        window = max(1, math.ceil(count / 50))
        steps, means = running_mean(np.arange(count) + 1, values)
        assert len(steps) == min(count, 2 * PIECES)
        if count:
            assert steps[0] == 1 and steps[-1] == count
        for step, mean in zip(steps, means, strict=True):
            assert mean == pytest.approx(
                sum(values[max(0, step - window) : step]) / min(window, step), abs=1e-12
            )
