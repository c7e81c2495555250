"""Masks of objects within their own boxes: small arrays, whatever the size of the image."""

from collections.abc import Sequence

import numpy as np

CELLS = 56  # Along a side of a box.


def coverage(mask: np.ndarray, box: Sequence[float], cells: int = CELLS) -> np.ndarray:
    """uint8 (cells, cells), the share of each cell of a box that a mask covers, 255 for all of it.

    Args:
      mask: bool (H, W).
      box: (x0, y0, x1, y1) in pixels of the mask, cut into equal cells; outside there is nothing.
      cells: along each side.
    """
    x0, y0, x1, y1 = map(float, box)
    rows, down = _shares(y0, y1, mask.shape[0], cells)
    columns, across = _shares(x0, x1, mask.shape[1], cells)
    share = down @ mask[rows, columns].astype(np.float32) @ across.T
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _shares(start: float, stop: float, length: int, cells: int) -> tuple[slice, np.ndarray]:
    """The pixels that a side touches, and float32 (cells, pixels), how much of each cell is in each pixel."""
    edges = np.linspace(start, stop, cells + 1)
    first, last = (min(max(int(side), 0), length) for side in (np.floor(start), np.ceil(stop)))
    pixels = np.arange(first, last)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    width = max((stop - start) / cells, np.finfo(np.float32).tiny)
    return slice(first, last), (np.clip(inside, 0, None) / width).astype(np.float32)
