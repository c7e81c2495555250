"""Proposals and detections against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection.anchors import anchors, inside
from qsdt_jax.detection.boxes import clipped, decode
from qsdt_jax.detection.detections import detect
from qsdt_jax.detection.proposals import propose
from qsdt_jax.detection.targets import BOX_STD
from tests.detection.by_hand import box_by_box

SHAPES, STRIDES = ((6, 8), (3, 4), (2, 2)), (8, 16, 32)
SIZE = jnp.asarray([41, 60])  # Of an array of 48x64.
RESOLUTION = 1e-4  # So coarse that float32 and float64 round to the same.


def equal_up_to_rounding(rng, low, high, shape, noise):
    """Whole numbers, and so little besides that the scores of equal ones are equal."""
    return rng.integers(low, high, shape) + rng.uniform(-noise, noise, shape)


def rounded(scores):
    return np.round(np.asarray(scores, np.float64) / RESOLUTION)


def levels(rng, dtype=jnp.float32):
    """Scores that are often equal, deltas, anchors, and the anchors inside the image."""
    scores = [jnp.asarray(equal_up_to_rounding(rng, -3, 3, (*shape, 3), 2e-5), dtype) for shape in SHAPES]
    deltas = [jnp.asarray(rng.normal(0, 0.5, (*shape, 3, 4)), dtype) for shape in SHAPES]
    boxes = [jnp.asarray(anchors(shape, stride, 2)) for shape, stride in zip(SHAPES, STRIDES, strict=True)]
    within = [inside(shape, stride, SIZE) for shape, stride in zip(SHAPES, STRIDES, strict=True)]
    return scores, deltas, boxes, within


def one_by_one(scores, deltas, boxes, within, per_level, number):
    found = []
    for level, (s, d, a, usable) in enumerate(zip(scores, deltas, boxes, within, strict=True)):
        probability = 1 / (1 + np.exp(-np.asarray(s, np.float64).reshape(-1)))
        moved = np.asarray(clipped(decode(d.reshape(-1, 4), a), SIZE))
        order = [i for i in np.lexsort([np.arange(len(a)), -rounded(probability)]) if usable[i]][:per_level]
        order = [i for i in order if (moved[i, 2:] > moved[i, :2]).all()]
        keep = box_by_box(moved[order], probability[order], np.ones(len(order), bool), 0.7, RESOLUTION)
        found += [
            (-rounded(probability[i]), level, i, moved[i])
            for i, kept in zip(order, keep, strict=True)
            if kept
        ]
    found.sort(key=lambda x: x[:3])
    return found[:number]


@pytest.mark.parametrize(("per_level", "number"), [(20, 30), (200, 300), (1, 5)])
def test_proposals_are_the_best_of_all_levels(per_level, number):
    given = levels(np.random.default_rng(0))
    found = jax.jit(propose, static_argnums=(5, 6, 7))(*given, SIZE, per_level, number, RESOLUTION)
    expected = one_by_one(*given, per_level, number)
    count = len(expected)
    assert found.boxes.shape == (number, 4)
    assert found.valid.tolist() == [True] * count + [False] * (number - count)
    np.testing.assert_allclose(found.boxes[:count], [x[3] for x in expected], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(rounded(found.scores[:count]), [-x[0] for x in expected])
    assert not np.asarray(found.boxes[count:]).any()
    assert not np.asarray(found.scores[count:]).any()


def test_proposals_have_no_gradient_and_stay_finite():
    scores, deltas, boxes, within = levels(np.random.default_rng(1), jnp.bfloat16)
    within[0] = jnp.zeros_like(within[0])  # A level without any anchor inside.
    scores[1] = jnp.where(scores[1] > 0, jnp.inf, -jnp.inf)  # As a net that comes apart puts out.

    def total(deltas):
        found = propose(scores, deltas, boxes, within, SIZE, 10, 40)
        return jnp.sum(found.boxes) + jnp.sum(found.scores), found

    grads, found = jax.jit(jax.grad(total, has_aux=True))(deltas)
    assert not any(np.asarray(x, np.float32).any() for x in grads)
    assert found.boxes.dtype == jnp.float32
    assert np.isfinite(found.boxes).all()


def heads(rng, boxes=30, classes=4):
    corner = rng.integers(0, 40, (boxes, 2))
    rois = jnp.asarray(np.concatenate([corner, corner + rng.integers(1, 20, (boxes, 2))], -1), jnp.float32)
    logits = jnp.asarray(equal_up_to_rounding(rng, -2, 3, (boxes, classes + 1), 2e-6), jnp.float32)
    deltas = jnp.asarray(rng.normal(0, 1, (boxes, classes, 4)), jnp.float32)
    return rois, jnp.asarray(rng.uniform(size=boxes) < 0.8), logits, deltas


@pytest.mark.parametrize("number", [5, 25, 200])
def test_detections_are_the_best_of_all_classes(number):
    rois, valid, logits, deltas = heads(np.random.default_rng(2))
    exp = np.exp(np.asarray(logits, np.float64))
    probability = exp / exp.sum(1, keepdims=True)
    moved = np.asarray(clipped(decode(deltas, rois[:, None], BOX_STD), SIZE))
    expected = []
    for k in range(4):
        usable = (probability[:, k] > 0.05) & np.asarray(valid)
        keep = box_by_box(moved[:, k], probability[:, k], usable, 0.5, RESOLUTION)
        expected += [(-rounded(probability[i, k]), i, k, moved[i, k]) for i in np.flatnonzero(keep)]
    expected.sort(key=lambda x: x[:3])
    assert 25 < len(expected) < 120
    expected = expected[:number]
    found = jax.jit(detect, static_argnums=(5, 6, 7))(
        rois, valid, logits, deltas, SIZE, number, 0.05, RESOLUTION
    )
    count = len(expected)
    assert found.category.tolist() == [x[2] for x in expected] + [-1] * (number - count)
    np.testing.assert_allclose(found.boxes[:count], [x[3] for x in expected], atol=1e-5)
    np.testing.assert_array_equal(rounded(found.score[:count]), [-x[0] for x in expected])
    assert not np.asarray(found.boxes[count:]).any()
    assert not np.asarray(found.score[count:]).any()


def test_a_score_at_the_threshold_is_no_detection():
    logits = jnp.log(jnp.asarray([[0.25, 0.25, 0.5], [0.125, 0.375, 0.5]]))
    rois, deltas = jnp.asarray([[0.0, 0, 8, 8], [20, 20, 30, 30]]), jnp.zeros((2, 2, 4))
    found = detect(rois, jnp.ones(2, bool), logits, deltas, SIZE, 3, score_threshold=0.25)
    assert found.category.tolist() == [1, -1, -1]
    found = detect(rois, jnp.zeros(2, bool), logits, deltas, SIZE, 3)
    assert found.category.tolist() == [-1, -1, -1]


def test_fewer_boxes_and_classes_than_slots():
    rois, valid, logits, deltas = heads(np.random.default_rng(3), boxes=2, classes=1)
    found = detect(rois, valid, logits, deltas, SIZE, 10)
    assert found.boxes.shape == (10, 4)
    assert found.category.shape == (10,)
