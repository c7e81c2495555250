"""Which places of an array lie inside an image, where images of several sizes share one array."""

import jax
import jax.numpy as jnp


def inside(sizes: jax.Array, grid: tuple[int, int], stride: int = 1) -> jax.Array:
    """Whether the first pixel of a place is a pixel of the image.

    Args:
      sizes: (..., 2) height and width in pixels of images at the top left of the array.
      grid: rows and columns of places.
      stride: pixels of the image, along each axis, to a place.

    Returns:
      (..., rows, columns) booleans.
    """
    rows, columns = (stride * jnp.arange(count) < sizes[..., i, None] for i, count in enumerate(grid))
    return rows[..., :, None] & columns[..., None, :]
