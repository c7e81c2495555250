"""Boxes: area, intersection over union, the deltas from one box to another (Girshick et al., 2014)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

LOG_LIMIT = math.log(1000 / 16)  # Of the ratio of two sides, in `decode`, against overflow of its exp.
UNIT_STD = (1.0, 1.0, 1.0, 1.0)


def area(boxes: jax.Array) -> jax.Array:
    """Square pixels (...) of boxes (..., 4)."""
    x0, y0, x1, y1 = jnp.moveaxis(boxes, -1, 0)
    return (x1 - x0) * (y1 - y0)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of every pair; of two boxes without area 0.

    Args:
      a: boxes (..., N, 4).
      b: boxes (..., M, 4).

    Returns:
      (..., N, M), 0..1.
    """
    low = jnp.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = jnp.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = jnp.maximum(high - low, 0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)


def encode(boxes: jax.Array, reference: jax.Array, std: Sequence[float] = UNIT_STD) -> jax.Array:
    """Deltas from reference boxes to boxes: of the centre in sides of the reference, and log ratios of sides.

    Args:
      boxes: (..., 4).
      reference: (..., 4).
      std: the deltas are divided by it.

    Returns:
      (dx, dy, dw, dh) / std (..., 4); not finite where a box has no area.
    """
    centre, sides = _centre_and_sides(boxes)
    origin, scale = _centre_and_sides(reference)
    deltas = jnp.concatenate([(centre - origin) / scale, jnp.log(sides / scale)], axis=-1)
    return deltas / jnp.asarray(std, deltas.dtype)


def decode(deltas: jax.Array, reference: jax.Array, std: Sequence[float] = UNIT_STD) -> jax.Array:
    """Boxes from deltas: the inverse of `encode`, with ratios of sides within 16/1000..1000/16.

    Args:
      deltas: (..., 4).
      reference: boxes whose shape broadcasts to that of the deltas.
      std: the deltas are multiplied by it.

    Returns:
      Boxes (..., 4).
    """
    origin, scale = _centre_and_sides(reference)
    deltas = deltas * jnp.asarray(std, deltas.dtype)
    centre = origin + deltas[..., :2] * scale
    half = scale * jnp.exp(jnp.clip(deltas[..., 2:], -LOG_LIMIT, LOG_LIMIT)) / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def clipped(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Boxes (..., 4) cut to an image of size (height, width): those outside have no area."""
    height, width = jnp.asarray(size, boxes.dtype)
    return jnp.clip(boxes, 0, jnp.stack([width, height, width, height]))


def _centre_and_sides(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
