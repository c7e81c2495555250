"""A mask of some cells across its box -> the pixels that it covers, of an image at its own size.

A pixel's centre (x + 0.5, y + 0.5) is mapped into the box, and the mask is interpolated there bilinearly
between the centres of its cells, with zeros around them (mmdetection). This is done on the host, where sizes
may differ, and only for pixels that can be covered.
"""

from typing import NamedTuple

import numpy as np

from qsdt_jax.data.geometry import Size

THRESHOLD = 0.5  # Least value of a covered pixel; outside its box a mask is below it, whatever it is.


class Part(NamedTuple):
    """The pixels of an image within a box: bool (h, w), and the row and column of the first."""

    covered: np.ndarray
    top: int
    left: int


def pasted(mask: np.ndarray, box: np.ndarray, size: Size) -> np.ndarray:
    """bool (height, width), the pixels that the mask covers; arguments as of `covered_part`."""
    covered, top, left = covered_part(mask, box, size)
    whole = np.zeros(size, bool)
    whole[top : top + covered.shape[0], left : left + covered.shape[1]] = covered
    return whole


def covered_part(mask: np.ndarray, box: np.ndarray, size: Size) -> Part:
    """The pixels that the mask covers, all of which lie within the box.

    Args:
      mask: (m, n) probabilities.
      box: (4,) x0, y0, x1, y1 in pixels of the image; it may reach beyond it. One without an area, or with a
        side that is no finite number, has no pixels.
      size: (height, width) of the image.
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    if not (np.isfinite((x0, y0, x1, y1)).all() and x1 > x0 and y1 > y0):
        return Part(np.zeros((0, 0), bool), 0, 0)
    rows, columns = _centres_within(y0, y1, size[0]), _centres_within(x0, x1, size[1])
    covered = mask_values(mask, box, rows, columns) >= THRESHOLD
    return Part(covered, int(rows[0]), int(columns[0])) if covered.size else Part(covered, 0, 0)


def mask_values(mask: np.ndarray, box: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 (rows, columns), the mask at pixels of these indices; `box` has an area."""
    x0, y0, x1, y1 = (float(side) for side in box)
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2))  # np.pad would take half as long as all the rest.
    padded[1:-1, 1:-1] = mask
    top, down = _cells((rows + 0.5 - y0) / (y1 - y0), height)
    left, across = _cells((columns + 0.5 - x0) / (x1 - x0), width)
    of_rows = _between(padded[top], padded[top + 1], down[:, None])
    return _between(of_rows[:, left], of_rows[:, left + 1], across)


def _centres_within(low: float, high: float, length: int) -> np.ndarray:
    """Indices of the pixels along an axis whose centres lie in [low, high]."""
    first = max(0.0, np.ceil(low - 0.5))
    last = min(length - 1.0, np.floor(high - 0.5))
    return np.arange(first, last + 1).astype(np.int64)


def _cells(share: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Of places in 0..1 across a box: the cell of the padded mask before each, and how far behind it is."""
    place = np.clip(share * cells + 0.5, 0, cells + 1)
    before = np.minimum(np.floor(place), cells).astype(np.int64)
    return before, place - before


def _between(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Exactly a where both are equal, or a mask of 0.5 would fall below the threshold by rounding."""
    return a + share * (b - a)
