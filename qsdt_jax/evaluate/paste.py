"""A mask of some cells across its box -> the pixels that it covers, of an image at its own size.

A pixel's centre (x + 0.5, y + 0.5) is mapped into the box, and the mask is interpolated there bilinearly
between the centres of its cells, with zeros around them (mmdetection). This is done on the host, where sizes
may differ, and only for pixels that can be covered.
"""

import numpy as np

from qsdt_jax.data.geometry import Size

THRESHOLD = 0.5


def pasted(mask: np.ndarray, box: np.ndarray, size: Size, threshold: float = THRESHOLD) -> np.ndarray:
    """The pixels where the mask is at least the threshold.

    Args:
      mask: (m, n) probabilities.
      box: (4,) x0, y0, x1, y1 in pixels of the image; it may reach beyond it.
      size: (height, width) of the image.
      threshold: at least 0.5, so that no pixel outside the box is covered, whatever the mask.

    Returns:
      uint8 (height, width), 1 where it is covered, in column-major order, as run lengths are counted. A box
      without an area, or with a side that is no finite number, covers nothing.
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    whole = np.zeros(size, np.uint8, order="F")
    if not (np.isfinite((x0, y0, x1, y1)).all() and x1 > x0 and y1 > y0):
        return whole
    rows, columns = _centres_within(y0, y1, size[0]), _centres_within(x0, x1, size[1])
    if rows.size and columns.size:
        part = whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part[...] = mask_values(mask, box, rows, columns) >= threshold
    return whole


def mask_values(mask: np.ndarray, box: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 (rows, columns), the mask at pixels of these indices; `box` has an area."""
    x0, y0, x1, y1 = (float(side) for side in box)
    padded = np.pad(np.asarray(mask, np.float64), 1)
    height, width = mask.shape
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
