"""Masks at the size of their image, against stored ones of mmdetection's rule and a loop over pixels."""

from pathlib import Path

import numpy as np
import pytest

from qsdt_jax.evaluate.paste import mask_values, pasted

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "paste.npz")
SIZE = (50, 64)


@pytest.mark.parametrize("number", range(len(GOLDEN["masks"])))
def test_stored_masks(number):
    mask, box = GOLDEN["masks"][number], GOLDEN["boxes"][number]
    found = mask_values(mask, box, np.arange(0, SIZE[0], 2), np.arange(0, SIZE[1], 2))
    np.testing.assert_allclose(found, GOLDEN["value"][number], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(pasted(mask, box, SIZE), GOLDEN["binary"][number])


def by_loop(mask, box, size) -> np.ndarray:
    """Of every pixel of the image, one after the other."""
    (x0, y0, x1, y1), (m, n) = box, mask.shape
    whole = np.zeros(size, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            v, u = (y + 0.5 - y0) / (y1 - y0) * m - 0.5, (x + 0.5 - x0) / (x1 - x0) * n - 0.5
            total = 0.0
            for i in (int(np.floor(v)), int(np.floor(v)) + 1):
                for j in (int(np.floor(u)), int(np.floor(u)) + 1):
                    if 0 <= i < m and 0 <= j < n:
                        total += mask[i, j] * (1 - abs(v - i)) * (1 - abs(u - j))
            whole[y, x] = total >= 0.5
    return whole


def test_random_boxes_against_a_loop():
    generator = np.random.default_rng(0)
    for _ in range(20):
        corners = np.sort(generator.uniform(-15, 40, (2, 2)), axis=0)
        mask = generator.uniform(0, 1, (4, 5))
        box = corners.reshape(-1)
        found = pasted(mask, box, (17, 23))
        np.testing.assert_array_equal(found, by_loop(mask, box, (17, 23)))


def test_a_mask_that_is_sure_covers_the_inside_of_its_box():
    """Also half sure: the threshold is reached, wherever a pixel lies between the centres of two cells."""
    for value in (1.0, 0.5):
        found = pasted(np.full((7, 7), value), np.array([2.3, 1.1, 9.9, 8.2]), (10, 12))
        assert found[2:8, 3:9].all()
        found[1:8, 2:10] = 0
        assert not found.any()


@pytest.mark.parametrize(
    "box",
    [
        (3, 3, 3, 9), (3, 3, 9, 3), (5, 5, 4, 4), (np.nan, 0, 9, 9), (0, 0, np.inf, 9),
        (20, 0, 30, 9), (-9, 0, -1, 9), (3.6, 3.6, 4.4, 4.4),
    ],
)  # fmt: skip
def test_boxes_that_cover_no_pixel(box):
    """Without an area, no numbers, beside the image, and between the centres of pixels."""
    found = pasted(np.ones((28, 28), np.float32), np.array(box, np.float32), (10, 12))
    assert found.shape == (10, 12) and not found.any()
