"""RoIAlign and its gradient against torchvision's, and its two forms against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection.roi_align import STRIDES, level_of, roi_align, roi_align_by_matrices
from tests.golden.detection import drawn, golden

FORMS = [roi_align, roi_align_by_matrices]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def assert_met(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize("stride", [4, 16])
def test_values_and_gradient(float64, stride, size, form):
    """Inside, across the border, outside, without area; chunks of 5 do not divide the 13 boxes."""
    file = golden("roi_align")
    features, rois = file[f"stride{stride}/features"], file[f"stride{stride}/rois"]
    name = f"stride{stride}/out{size}/ratio2"

    def of_all(features):  # Every box of every image, and from these the one of its own image.
        maps, boxes = [features.transpose(0, 2, 3, 1)], jnp.asarray(rois[:, 1:])
        y = form(maps, jnp.broadcast_to(boxes, (2, *boxes.shape)), size, (stride,), chunk=5)
        return y[rois[:, 0].astype(int), np.arange(len(rois))].transpose(0, 3, 1, 2)

    y, back = jax.vjp(jax.jit(of_all), jnp.asarray(features))
    assert_met(y, file[name])
    assert_met(back(jnp.asarray(drawn(name, y.shape)))[0], file[f"{name}/grad"])


def pyramid(rng, batch=2, channels=3):
    return [
        jnp.asarray(rng.standard_normal((batch, 256 // s, 384 // s, channels)), jnp.float32) for s in STRIDES
    ]


def boxes_of_all_levels(rng, count):
    side = np.exp(rng.uniform(np.log(10), np.log(900), (*count, 2)))
    centre = rng.uniform(0, (384, 256), (*count, 2))
    return jnp.asarray(np.concatenate([centre - side / 2, centre + side / 2], -1), jnp.float32)


@pytest.mark.parametrize("form", FORMS)
def test_each_box_is_taken_from_its_level_and_its_image(form):
    rng = np.random.default_rng(0)
    maps, boxes = pyramid(rng), boxes_of_all_levels(rng, (2, 30))
    levels = np.asarray(level_of(boxes))
    assert set(levels.flat) == {0, 1, 2, 3}
    y = form(maps, boxes, 3, chunk=8)
    for level, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        alone = form([x], boxes, 3, (stride,))
        np.testing.assert_allclose(y[levels == level], alone[levels == level], rtol=0, atol=1e-5)


def test_both_forms_have_one_result_and_gradient():
    rng = np.random.default_rng(1)
    maps, boxes = pyramid(rng), boxes_of_all_levels(rng, (2, 20))

    def result(form):
        return jax.jit(jax.value_and_grad(lambda maps: jnp.sum(jnp.sin(form(maps, boxes, 4)))))(maps)

    results = map(result, FORMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


@pytest.mark.parametrize("form", FORMS)
def test_boxes_have_no_gradient_and_empty_ones_do_no_harm(form):
    rng = np.random.default_rng(2)
    maps = pyramid(rng, batch=1)
    boxes = jnp.zeros((1, 3, 4)).at[0, 1].set(jnp.asarray([8.0, 8, 8, 40]))
    by_maps, by_boxes = jax.jit(jax.grad(lambda *x: jnp.sum(form(*x, 2)), argnums=(0, 1)))(maps, boxes)
    assert all(bool(jnp.isfinite(x).all()) for x in by_maps)
    assert not np.asarray(by_boxes).any()
    assert form(maps, jnp.zeros((1, 0, 4)), 2).shape == (1, 0, 2, 2, 3)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_of_maps_leaves_the_places_alone(form):
    """The value at a far place is exact where cells hold small whole numbers."""
    column = np.arange(96) % 4
    x = jnp.asarray(np.broadcast_to(column[:, None], (1, 64, 96, 1)), jnp.bfloat16)
    boxes = jnp.asarray([[[4 * 93, 4 * 10, 4 * 94, 4 * 11]]], jnp.float32)  # The cell of column 93.
    y = form([x], boxes, 1, (4,))
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0, 0]) == 1.0  # Samples at 92.75 and 93.25: 0.75 and 1.25.
