"""Anchors: the boxes that the region proposal network starts from (Ren et al., 2015; Lin et al., 2017)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.inside import inside as inside_image

SCALE = 8.0
RATIOS = (0.5, 1.0, 2.0)  # Height over width.


def anchors(
    shape: tuple[int, int],
    stride: int,
    scale: float = SCALE,
    ratios: Sequence[float] = RATIOS,
    dtype: Any = np.float32,
) -> np.ndarray:
    """The boxes of one map, of equal area, with every ratio of sides at every cell.

    Centred on the upper left corner of the cell, (column, row) * stride, as published; a box may stick out of
    the image.

    Args:
      shape: rows and columns of the map.
      stride: pixels per cell.
      scale: square root of the area, in strides.
      ratios: height over width.
      dtype: of the result.

    Returns:
      (rows * columns * ratios, 4) in this order, in NumPy: constants of a program, never computed in it.
    """
    rows, columns = shape
    root = np.sqrt(np.asarray(ratios, np.float64))
    half = np.stack([1 / root, root], axis=-1) * (scale * stride / 2)
    y, x = np.meshgrid(np.arange(rows) * stride, np.arange(columns) * stride, indexing="ij")
    centre = np.stack([x, y], axis=-1)[:, :, None]
    return np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4).astype(dtype)


def inside(shape: tuple[int, int], stride: int, size: jax.Array, ratios: int = len(RATIOS)) -> jax.Array:
    """Whether the centres of anchors lie in the image, which is padded to the size of the array.

    Args:
      shape: rows and columns of the map.
      stride: pixels per cell.
      size: height and width of the image within the array (2,).
      ratios: anchors per cell.

    Returns:
      bool (rows * columns * ratios,), in the order of `anchors`.
    """
    return jnp.repeat(inside_image(size, shape, stride).reshape(-1), ratios)
