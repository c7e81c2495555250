import math
import tracemalloc

import numpy as np
import pytest

from qsdt_jax.workdir.history import History

TRAINING = {"train/loss": 1.5, "train/grad_norm": 0.5, "train/learning_rate": 0.1}


def test_lines_of_several_kinds():
    history = History()
    for step in (1, 2, 3):
        history.add(step, {**TRAINING, "train/loss": step / 3})
        if step != 2:
            history.add(step, {"eval/top1": 10.0 * step, "eval/loss": 7})
    assert history.line(3, "eval/top1") == {"eval/top1": 30.0, "eval/loss": 7.0}
    assert history.line(3, "train/loss") == {**TRAINING, "train/loss": 1.0}
    assert history.line(2, "eval/top1") is None and history.line(3, "nothing") is None
    steps, values = history.series("train/loss")
    assert (steps.dtype, steps.tolist()) == (np.int64, [1, 2, 3])
    assert (values.dtype, values.tolist()) == (np.float64, [1 / 3, 2 / 3, 1.0])
    assert [len(column) for column in history.series("nothing")] == [0, 0]


def test_a_series_over_lines_with_other_names_beside_it():
    history = History()
    for step, others in ((1, {}), (2, {"b": 0.0}), (3, {}), (3, {"b": 1.0})):
        history.add(step, {"a": float(step), **others})
    assert [column.tolist() for column in history.series("a")] == [[1, 2, 3, 3], [1.0, 2.0, 3.0, 3.0]]


def test_the_newest_line_of_a_step():
    history = History()
    for value in (1.0, 2.0):
        history.add(5, {"a": value})
    assert history.line(5, "a") == {"a": 2.0}


def test_best():
    history = History()
    assert history.best("score") is None
    for step, value in enumerate([math.nan, 3.0, 5.0, 5.0, 4.0, math.nan]):
        history.add(step, {"score": value, "other": -value})
    assert history.best("score") == (3, 5.0)
    assert history.best("other") == (1, -3.0)
    # Where smaller is better, as of the negative numbers where larger is.
    assert history.best("other", larger_is_better=False) == (3, -5.0)
    assert history.best("score", larger_is_better=False) == (1, 3.0)
    history.add(9, {"only": math.nan})
    assert history.best("only") == (9, pytest.approx(math.nan, nan_ok=True))


def test_a_line_that_is_refused_leaves_nothing():
    history = History()
    history.add(1, {"a": 1.0, "b": 2.0})
    with pytest.raises(TypeError):
        history.add(2, {"a": 1.0, "b": "x"})  # pyright: ignore[reportArgumentType]
    history.add(3, {"a": 3.0, "b": 4.0})
    assert history.line(3, "b") == {"a": 3.0, "b": 4.0}
    assert history.series("b")[1].tolist() == [2.0, 4.0]


def test_memory_of_a_long_run():
    """A quarter of a million lines once took 645 MB."""
    tracemalloc.start()
    history = History()
    for step in range(100_000):
        history.add(step, {**TRAINING, "train/loss": step / 7})
    assert tracemalloc.get_traced_memory()[0] < 100_000 * 8 * (1 + len(TRAINING)) * 1.2
    tracemalloc.stop()
