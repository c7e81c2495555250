"""Objects, anchors and features lie on each other, on every level, wherever an object is.

Anchors are centred on the corners of cells and RoIAlign on their middles: half a cell apart, as published.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection.anchors import RATIOS, anchors, inside
from qsdt_jax.detection.boxes import decode, iou
from qsdt_jax.detection.roi_align import STRIDES, level_of, roi_align, roi_align_by_matrices
from qsdt_jax.detection.targets import anchor_targets

HEIGHT, WIDTH = 480, 512
LEVELS = (*STRIDES, 64)
SHAPES = [(-(-HEIGHT // stride), -(-WIDTH // stride)) for stride in LEVELS]


def objects(rng, count):
    """Boxes within the image, of all sizes from 24 pixels and of ratios up to 3."""
    root = np.exp(rng.uniform(np.log(24), np.log(480), count))
    ratio = np.exp(rng.uniform(-np.log(3), np.log(3), count) / 2)
    sides = np.minimum(np.stack([root / ratio, root * ratio], -1), (WIDTH, HEIGHT))
    corner = rng.uniform(0, np.asarray([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corner, corner + sides], -1).astype(np.float32)


def test_an_object_is_assigned_to_anchors_that_lie_on_it():
    boxes = objects(np.random.default_rng(0), 100)
    each = [anchors(shape, stride) for shape, stride in zip(SHAPES, LEVELS, strict=True)]
    size = jnp.asarray([HEIGHT, WIDTH])
    within = jnp.concatenate(
        [inside(shape, stride, size) for shape, stride in zip(SHAPES, LEVELS, strict=True)]
    )
    # Where a prediction comes from: its place in the map of its level, in pixels.
    places = [
        np.stack(np.unravel_index(np.arange(len(x)), (*shape, len(RATIOS)))[1::-1], -1) * stride
        for x, shape, stride in zip(each, SHAPES, LEVELS, strict=True)
    ]
    place, cell = np.concatenate(places), np.repeat(LEVELS, [len(x) for x in each])
    every = jnp.asarray(np.concatenate(each))

    @jax.jit
    def of_object(box):
        category = jnp.zeros(1, jnp.int32)
        told = anchor_targets(jax.random.key(0), every, within, box[None], category, number=2 * len(every))
        return told.label, iou(box[None], every)[0], decode(told.deltas, every)

    used = set()
    for box in boxes:
        label, overlap, back = map(np.asarray, of_object(box))
        positive = label > 0
        assert positive.any()
        used |= set(cell[positive])
        np.testing.assert_allclose(back[positive], np.broadcast_to(box, back[positive].shape), atol=0.01)
        slack = np.where(overlap >= 0.7, 0, cell / 2)[positive, None]
        assert (place[positive] >= box[:2] - slack).all()
        assert (place[positive] <= box[2:] + slack).all()
    assert used == set(LEVELS)


@pytest.mark.parametrize("form", [roi_align, roi_align_by_matrices])
def test_features_are_taken_from_where_the_object_is(form):
    """Of maps whose cells say where they are: a channel for each row, each column and each level."""
    rows, columns = SHAPES[0]
    maps = []
    for level, (height, width) in enumerate(SHAPES[: len(STRIDES)]):
        x = np.zeros((1, height, width, rows + columns + len(STRIDES)), np.float32)
        x[0, np.arange(height), :, np.arange(height)] = 1
        x[0, :, np.arange(width), rows + np.arange(width)] = 1
        x[..., rows + columns + level] = 1
        maps.append(jnp.asarray(x))
    of_borders = [[0, 0, WIDTH, HEIGHT], [0, 0, 24, 24], [WIDTH - 24, HEIGHT - 24, WIDTH, HEIGHT]]
    boxes = np.concatenate([objects(np.random.default_rng(1), 40), np.float32(of_borders)])
    size = 7
    y = np.asarray(form(maps, jnp.asarray(boxes)[None], size, chunk=16))[0]
    level = np.asarray(level_of(jnp.asarray(boxes)))
    assert set(level) == {0, 1, 2, 3}
    np.testing.assert_allclose(
        y[..., rows + columns :], np.eye(4)[level][:, None, None] * np.ones((7, 7, 1)), atol=1e-5
    )
    for box, stride, bins in zip(boxes, np.asarray(STRIDES)[level], y, strict=True):
        middles = (np.arange(size) + 0.5) / size
        for axis, weights in ((1, bins[:, :, :rows]), (0, bins[:, :, rows : rows + columns].swapaxes(0, 1))):
            np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
            cells = (np.arange(weights.shape[-1]) + 0.5) * stride
            expected = box[axis] + middles * (box[axis + 2] - box[axis])
            # Between the middles of the outermost cells the value is the place, beyond them that of the last.
            slack = stride / 2 + (box[axis + 2] - box[axis]) / size / 4
            found = weights @ cells
            free = (expected > slack) & (expected < (WIDTH, HEIGHT)[axis] - slack)
            np.testing.assert_allclose(
                found[free], np.broadcast_to(expected[free, None], found[free].shape), atol=0.01
            )
            assert (np.abs(found - expected[:, None]) <= stride / 2 + 0.01).all()
            beside = (cells < box[axis] - stride) | (cells > box[axis + 2] + stride)
            assert not weights[..., beside].any()
