"""Which ground truth a box belongs to, against mmdetection's; what is drawn of the matched boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection.matching import IGNORED, NEGATIVE, match
from qsdt_jax.detection.sampling import sample
from tests.golden.detection import golden

CASES = ("anchors", "ties", "ties_low", "zeros", "no_gt")
RULES = {"rpn": (0.7, 0.3, 0.3), "roi": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize("low_quality", [True, False], ids=["low", "no_low"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_matches(case, rule, low_quality):
    """Empty slots before, between and after the ground truths change nothing but the indices."""
    file = golden("matcher")
    positive, negative, low = RULES[rule]
    expected = file[f"{case}/{rule}" + ("" if low_quality else "_no_low")]
    overlap = file[f"{case}/iou"]
    with jax.enable_x64(True):
        for places in (np.arange(len(overlap)), np.arange(len(overlap)) * 2 + 1):
            slots = np.zeros((max(places, default=-1) + 3, overlap.shape[1]))  # Also without any slot in use.
            slots[:] = 0.9  # What lies in an empty slot does not matter.
            slots[places] = overlap
            valid = np.isin(np.arange(len(slots)), places)
            found = match(
                jnp.asarray(slots), jnp.asarray(valid), positive, negative, low if low_quality else None
            )
            own = np.append(places, [IGNORED, NEGATIVE])[expected]  # -1 is the last, -2 the one before.
            np.testing.assert_array_equal(found, own)


def test_iou_equal_up_to_rounding_is_a_tie():
    iou = jnp.asarray([[0.4, 0.4 + 3e-8, 0.4 - 3e-8, 0.39]])
    assert match(iou, jnp.ones(1, bool), 0.7, 0.3, 0.3).tolist() == [0, 0, 0, IGNORED]


def draws(matched, number, positives, times=200):
    keys = jax.random.split(jax.random.key(0), times)
    found = jax.jit(jax.vmap(lambda key: sample(key, jnp.asarray(matched, jnp.int32), number, positives)))
    indices, weights = found(keys)
    return np.asarray(indices), np.asarray(weights)


@pytest.mark.parametrize(
    ("counts", "number", "positives", "expected"),
    [  # Of positive, negative and ignored boxes; then of drawn positive and negative ones.
        ((30, 50, 20), 16, 8, (8, 8)),
        ((3, 50, 20), 16, 8, (3, 13)),
        ((30, 4, 20), 16, 8, (8, 4)),
        ((0, 50, 0), 16, 8, (0, 16)),
        ((5, 0, 20), 16, 8, (5, 0)),
        ((0, 0, 7), 16, 8, (0, 0)),
        ((2, 3, 0), 16, 8, (2, 3)),
    ],
)
def test_counts(counts, number, positives, expected):
    matched = np.random.default_rng(0).permutation(np.repeat([5, NEGATIVE, IGNORED], counts))
    indices, weights = draws(matched, number, positives, times=3)
    for index, weight in zip(indices, weights, strict=True):
        assert index.shape == weight.shape == (number,)
        drawn = index[weight > 0]
        assert set(weight) <= {0, 1}
        assert len(set(drawn)) == len(drawn)
        assert matched[drawn].tolist() == [5] * expected[0] + [NEGATIVE] * expected[1]
        assert weight.tolist() == sorted(weight, reverse=True)
        assert ((index >= 0) & (index < len(matched))).all()


def test_every_box_is_drawn_as_often():
    matched = np.repeat([0, NEGATIVE], [8, 12])
    indices, weights = draws(matched, 8, 4, times=2000)
    often = np.bincount(indices[weights > 0], minlength=20) / 2000
    np.testing.assert_allclose(often[:8], 4 / 8, atol=0.05)  # Four standard deviations.
    np.testing.assert_allclose(often[8:], 4 / 12, atol=0.05)


def test_the_same_boxes_are_drawn_with_float64_about():
    matched = jnp.asarray(np.repeat([0, NEGATIVE], [8, 12]), jnp.int32)
    indices, _ = sample(jax.random.key(3), matched, 8, 4)
    with jax.enable_x64(True):
        again, weights = sample(jax.random.key(3), matched, 8, 4)
    assert again.tolist() == indices.tolist()
    assert (again.dtype, weights.dtype) == (jnp.int32, jnp.float32)
