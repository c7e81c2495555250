"""The share of each cell of a box that a mask covers, against sums over pixels one by one."""

import numpy as np
import pytest

from qsdt_jax.data.dense.coverage import coverage


def overlap(a: float, b: float, c: float, d: float) -> float:
    return max(0.0, min(b, d) - max(a, c))


def by_loops(mask, box, cells):
    """The area of each cell that is covered / its own, cell by cell and pixel by pixel."""
    x0, y0, x1, y1 = box
    height, width = (y1 - y0) / cells, (x1 - x0) / cells
    found = np.zeros((cells, cells))
    for row in range(cells):
        for column in range(cells):
            top, left = y0 + row * height, x0 + column * width
            for i, j in zip(*np.nonzero(mask), strict=True):
                found[row, column] += overlap(top, top + height, i, i + 1) * overlap(
                    left, left + width, j, j + 1
                )
    return 255 * found / (height * width)


@pytest.mark.parametrize(
    "box",
    [(0, 0, 11, 7), (2, 1, 9, 6), (0.3, 0.7, 10.9, 6.2), (3.4, 2.2, 3.9, 2.3), (4, 3, 5, 4), (-3, -2, 15, 9)],
)
def test_shares_are_those_of_the_pixels(box):
    mask = np.random.default_rng(0).random((7, 11)) < 0.5
    found = coverage(mask, box, cells=6)
    assert found.shape == (6, 6) and found.dtype == np.uint8
    assert np.abs(found - by_loops(mask, box, 6)).max() <= 0.5001


def test_a_whole_box_is_255_and_an_empty_mask_0():
    mask = np.ones((40, 60), bool)
    for box in ((0, 0, 60, 40), (1.37, 2.91, 33.33, 39.99), (5, 5, 6, 6.5)):
        assert np.all(coverage(mask, box) == 255) and coverage(mask, box).shape == (56, 56)
        assert not coverage(~mask, box).any()


def test_boxes_without_area_give_numbers():
    mask = np.ones((4, 4), bool)
    for box in ((2, 2, 2, 3), (2, 2, 2, 2), (9, 9, 12, 12)):
        assert coverage(mask, box).shape == (56, 56)
