"""Photometric distortion against colorsys and Pillow, pixel by pixel."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.data.dense.photometric import (
    Photometric,
    brightened,
    contrasted,
    draw_photometric,
    hue_turned,
    saturated,
)

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 15, 3), np.uint8)
IMAGE[0] = IMAGE[0, :, :1]  # Greys.
IMAGE[1, :4] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 255]]
IMAGE[2, :, 1] = IMAGE[2, :, 0]  # Two channels are the largest, or the smallest.
IMAGE[3, :, 2] = IMAGE[3, :, 1]
IMAGE[4, :, 2] = IMAGE[4, :, 0]


def by_colorsys(change) -> np.ndarray:
    """float64, each pixel through HSV and back."""
    pixels = [change(*colorsys.rgb_to_hsv(*pixel)) for pixel in IMAGE.reshape(-1, 3) / 255]
    return 255 * np.array([colorsys.hsv_to_rgb(*pixel) for pixel in pixels]).reshape(IMAGE.shape)


def assert_rounded(found: np.ndarray, exact: np.ndarray):
    """Whole levels next to the exact ones; at a half both are right."""
    assert found.dtype == np.uint8
    assert np.abs(found - exact).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3, 1.5])
def test_saturation(factor):
    found = saturated(IMAGE, factor)
    assert_rounded(found, by_colorsys(lambda h, s, v: (h, min(1, s * factor), v)))
    np.testing.assert_array_equal(found.max(-1), IMAGE.max(-1))


@pytest.mark.parametrize("turn", [-0.1, -0.03, 0.0, 0.05, 0.1, 1 / 3, 0.5])
def test_hue(turn):
    found = hue_turned(IMAGE, turn)
    assert_rounded(found, by_colorsys(lambda h, s, v: ((h + turn) % 1, s, v)))
    np.testing.assert_array_equal(found.max(-1), IMAGE.max(-1))
    np.testing.assert_array_equal(found.min(-1), IMAGE.min(-1))


def test_a_third_of_the_circle_exchanges_the_channels():
    np.testing.assert_array_equal(hue_turned(IMAGE, 1 / 3), IMAGE[..., [2, 0, 1]])


@pytest.mark.parametrize("levels", [-32.0, -0.4, 0.0, 17.7, 32.0])
def test_brightness_and_contrast(levels):
    """Against Pillow's point operation on floats."""
    factor = 1 + levels / 64

    def by_pillow(scale: float, offset: float) -> np.ndarray:
        channels = [Image.fromarray(IMAGE[..., c].astype(np.float32)) for c in range(3)]
        return np.stack([np.asarray(c.point(lambda x: x * scale + offset)) for c in channels], -1)

    assert_rounded(brightened(IMAGE, levels), by_pillow(1, levels).clip(0, 255))
    assert_rounded(contrasted(IMAGE, factor), by_pillow(factor, 0).clip(0, 255))


@pytest.mark.parametrize("contrast_first", [True, False])
def test_the_order_of_the_operations(contrast_first):
    found = Photometric(
        brightness=30.0, contrast=1.5, saturation=0.5, hue=0.1, contrast_first=contrast_first
    ).apply(IMAGE)
    image = brightened(IMAGE, 30.0)
    if contrast_first:
        expected = hue_turned(saturated(contrasted(image, 1.5), 0.5), 0.1)
    else:
        expected = contrasted(hue_turned(saturated(image, 0.5), 0.1), 1.5)
    np.testing.assert_array_equal(found, expected)


def test_grey_images_have_neither_hue_nor_saturation():
    grey = IMAGE[..., :1]
    found = Photometric(brightness=8.0, saturation=1.5, hue=0.1).apply(grey)
    np.testing.assert_array_equal(found, np.minimum(grey.astype(int) + 8, 255))
    np.testing.assert_array_equal(Photometric().apply(IMAGE), IMAGE)


def test_draws_are_as_the_recipe_says():
    """Each operation in half of the draws, uniform between its bounds."""
    drawn = [draw_photometric(np.random.default_rng(seed)) for seed in range(4000)]
    assert drawn[:5] == [draw_photometric(np.random.default_rng(seed)) for seed in range(5)]
    for name, low, high, otherwise in (
        ("brightness", -32, 32, 0),
        ("contrast", 0.5, 1.5, 1),
        ("saturation", 0.5, 1.5, 1),
        ("hue", -18 / 180, 18 / 180, 0),
    ):
        values = np.array([getattr(one, name) for one in drawn])
        changed = np.sort(values[values != otherwise])
        assert abs(len(changed) / len(values) - 0.5) < 0.03
        uniform = np.linspace(low, high, len(changed))
        assert low <= changed[0] and changed[-1] <= high
        assert np.abs(changed - uniform).max() < 0.04 * (high - low)
    assert abs(np.mean([one.contrast_first for one in drawn]) - 0.5) < 0.03
    # One draw is not the other: no two operations go together.
    changed = np.array(
        [[one.brightness != 0, one.contrast != 1, one.saturation != 1, one.hue != 0] for one in drawn]
    )
    assert np.abs(np.corrcoef(changed.T) - np.eye(4)).max() < 0.06
