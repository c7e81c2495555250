"""Accuracy: ranks with ties, padding, few classes, and sums that no split is too large for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.evaluate.split import Scored, evaluate_split
from qsdt_jax.tasks.accuracy import accuracy_sums, summarize


def sums(logits, labels, mask=None) -> dict[str, float]:
    mask = np.ones(len(labels), np.int32) if mask is None else mask
    found = jax.jit(accuracy_sums)(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), jnp.asarray(mask))
    assert [found[name].dtype for name in ("images", "top1", "top5")] == [np.int32] * 3
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("classes", [2, 5, 6, 30])
def test_ranks_are_those_of_a_stable_sort(classes):
    """With few distinct scores, so that most classes are tied with others."""
    generator = np.random.default_rng(classes)
    logits, labels = generator.integers(0, 4, (500, classes)), generator.integers(0, classes, 500)
    order = np.argsort(-logits, axis=1, kind="stable")
    rank = np.argmax(order == labels[:, None], axis=1)
    found = sums(logits, labels)
    assert (found["images"], found["top1"]) == (500, np.sum(rank < 1))
    assert found["top5"] == np.sum(rank < 5)


def test_a_tie_goes_to_the_lower_index():
    assert [sums([[1.0, 1.0, 0.0]], [label])["top1"] for label in range(3)] == [1, 0, 0]


def test_fewer_than_five_classes_are_always_among_the_first_five():
    found = sums([[0.0, 1.0, 2.0]], [0])
    assert (found["top1"], found["top5"]) == (0, 1)


def test_padding_counts_for_nothing():
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    whole = sums(logits[:2], [0, 0])
    # What stands in the padding may be anything, a number or not.
    for filling in (5.0, np.nan, np.inf):
        padded = np.where(np.arange(3)[:, None] < 2, logits, filling)
        assert sums(padded, [0, 0, 0], [1, 1, 0]) == whole
    assert whole == {"images": 2, "top1": 1, "top5": 2, "loss": pytest.approx(2 + 2 * np.log1p(np.exp(-2)))}


def test_a_score_that_is_no_number_is_never_right():
    """Else a network of which nothing is left would be perfect."""
    found = sums(np.full((2, 10), np.nan), [0, 9])
    assert (found["top1"], found["top5"]) == (0, 0)
    one = np.where(np.arange(10) == 4, np.nan, np.arange(10))
    assert sums([one, one], [4, 9])["top1"] == 0


def test_summary():
    found = summarize({"images": 8, "top1": 3, "top5": 6, "loss": 4.0})
    assert found == {"top1": 37.5, "top5": 75.0, "loss": 0.5}


def test_sums_of_a_split_are_exact():
    """Counts in whole numbers beyond 32 bits, losses in 64 bits and in order."""
    most, losses = 2**31 - 1, [1.0, 1e-9, 1e-9]

    def step(loss):
        return Scored(sums={"images": jnp.int32(most), "loss": np.float32(loss)})

    total = evaluate_split(step, iter(losses), lambda total: dict(total.sums))
    assert total["images"] == 3 * most
    assert total["loss"] == sum(float(np.float32(loss)) for loss in losses) > 1
