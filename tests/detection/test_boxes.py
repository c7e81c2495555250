"""Boxes and anchors against torchvision and mmdetection, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection.anchors import anchors, inside
from qsdt_jax.detection.boxes import area, clipped, decode, encode, iou
from qsdt_jax.detection.roi_align import level_of
from tests.golden.detection import golden

STD = {"rpn": (1.0, 1.0, 1.0, 1.0), "roi": (0.1, 0.1, 0.2, 0.2)}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kind", STD)
def test_deltas(float64, kind):
    expected = golden("boxes")
    reference, target = jnp.asarray(expected["reference"]), jnp.asarray(expected["target"])
    found = encode(target, reference, STD[kind])
    np.testing.assert_allclose(found, expected[f"{kind}/encode"], rtol=0, atol=1e-12)
    boxes = decode(jnp.asarray(expected[f"{kind}/deltas"]), reference, STD[kind])
    scale = np.abs(expected[f"{kind}/decode"]).max()
    np.testing.assert_allclose(boxes, expected[f"{kind}/decode"], rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(
        clipped(boxes, expected["image_hw"]), expected[f"{kind}/decode_clipped"], rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(decode(found, reference, STD[kind]), target, atol=1e-10)


def test_intersection_over_union(float64):
    expected = golden("boxes")
    found = iou(jnp.asarray(expected["iou/a"]), jnp.asarray(expected["iou/b"]))
    np.testing.assert_allclose(found, expected["iou/iou"], rtol=0, atol=1e-14)
    assert np.asarray(found).min() == 0  # Of boxes apart from each other, and of those without area.


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_levels_are_those_of_the_formula_at_its_steps_too(float64, dtype):
    expected = golden("boxes")
    boxes = expected["levels/boxes"].astype(dtype)
    exact = (boxes == expected["levels/boxes"]).all(1)  # "Just below" a step is the step itself in float32.
    assert exact.sum() >= 6
    np.testing.assert_array_equal(level_of(jnp.asarray(boxes))[exact], expected["levels/level"][exact])


def test_boxes_keep_their_type():
    boxes = jnp.asarray([[0, 0, 4, 2]], jnp.float32)
    for found in (area(boxes), iou(boxes, boxes), encode(boxes, boxes), decode(boxes, boxes)):
        assert found.dtype == jnp.float32
    assert clipped(boxes, jnp.asarray([1, 3], jnp.int32)).tolist() == [[0, 0, 3, 1]]


def test_boxes_of_classes_share_a_reference():
    deltas = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3, 4)), jnp.float32)
    reference = jnp.asarray(np.arange(20).reshape(5, 4), jnp.float32)
    found = decode(deltas, reference[:, None])
    np.testing.assert_array_equal(found[:, 1], decode(deltas[:, 1], reference))


def test_anchors():
    grids = {4: (7, 9), 8: (4, 5), 16: (2, 3), 32: (1, 2), 64: (1, 1)}
    for stride, grid in grids.items():
        expected = golden("anchors")[f"stride{stride}"]
        np.testing.assert_allclose(anchors(grid, stride, dtype=np.float64), expected, rtol=1e-14)
        assert anchors(grid, stride).dtype == np.float32


@pytest.mark.parametrize("size", [(40, 56), (39, 57), (1, 8), (100, 100)])
def test_anchors_are_inside_where_their_centre_is(size):
    shape, stride = (6, 8), 8
    boxes = anchors(shape, stride, dtype=np.float64)
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    expected = (y < size[0] - 1e-6) & (x < size[1] - 1e-6)
    np.testing.assert_array_equal(inside(shape, stride, jnp.asarray(size)), expected)
