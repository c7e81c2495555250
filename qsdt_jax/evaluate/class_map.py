"""From the logits of a segmentation network to a class for each pixel of the image as it came.

The network sees an image of (h, w) pixels, which was scaled from (H, W) and padded, and answers at stride 2.
Its valid logits, (ceil(h / 2), ceil(w / 2)), are interpolated to (h, w) and from there to (H, W), both times
bilinearly, and the largest one is taken there (published code). Sizes differ from image to image: they are
values here, and only the frame that holds the result has a shape.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

STRIDE = 2  # Pixels of the network's image per logit.
CHUNK = 2**24  # Most numbers that a part of an image's interpolated logits has, if a row has no more.


class Taps(NamedTuple):
    """A linear map along an axis: output i is the sum over taps t of weight[t, i] * input[index[t, i]]."""

    index: jax.Array  # int32 (taps, outputs)
    weight: jax.Array  # float32 (taps, outputs)


def linear_taps(places: jax.Array, before: jax.Array, after: jax.Array) -> Taps:
    """Linear interpolation of an axis of `before` samples, at some places of one of `after` samples.

    The centres of the outermost samples' cells are the ends of both axes (`align_corners=False`), without
    antialiasing; what lies beyond the first or last sample has its value.

    Args:
      places: int32 (N,) indices into the new axis.
      before, after: numbers of samples, scalars.
    """
    position = (places + 0.5) * (before / after) - 0.5
    position = jnp.clip(position, 0, jnp.maximum(before - 1, 0))
    first = jnp.floor(position).astype(jnp.int32)
    second = jnp.minimum(first + 1, jnp.maximum(before - 1, 0))
    share = (position - first).astype(jnp.float32)
    return Taps(jnp.stack([first, second]), jnp.stack([1 - share, share]))


def _twice(places: jax.Array, before: jax.Array, between: jax.Array, after: jax.Array) -> Taps:
    """Two interpolations one after the other, before -> between -> after samples: four taps."""
    outer = linear_taps(places, between, after)
    inner = linear_taps(outer.index.reshape(-1), before, between)
    index = inner.index.reshape(-1, places.size)
    weight = (inner.weight.reshape(2, 2, -1) * outer.weight).reshape(-1, places.size)
    return Taps(index, weight)


def class_map(logits: jax.Array, size: jax.Array, original: jax.Array, frame: tuple[int, int]) -> jax.Array:
    """The class of each pixel of one image.

    Args:
      logits: (h', w', K) at stride 2, those of padding included.
      size: (2,) h and w, of the image as the network saw it, without padding.
      original: (2,) H and W, of the image as it came.
      frame: static (height, width) that holds the result.

    Returns:
      int32 of the shape of the frame; outside of (H, W) some class.
    """
    height, width = frame
    _, columns, classes = logits.shape
    valid = -(-size // STRIDE)
    across = _twice(jnp.arange(width), valid[1], size[1], original[1])
    rows_at_once = max(1, min(height, CHUNK // (max(width, columns) * classes)))
    parts = -(-height // rows_at_once)
    down = _twice(jnp.arange(parts * rows_at_once), valid[0], size[0], original[0])

    def largest(rows: Taps) -> jax.Array:
        scores = _interpolated(_interpolated(logits, rows, axis=0), across, axis=1)
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)

    in_parts = jax.tree.map(lambda x: x.reshape(-1, parts, rows_at_once).swapaxes(0, 1), down)
    return jax.lax.map(largest, in_parts).reshape(-1, width)[:height]


def _interpolated(x: jax.Array, taps: Taps, axis: int) -> jax.Array:
    """The taps' map along an axis of x (h, w, K), 0 or 1."""
    terms = [
        jnp.take(x, index, axis, mode="clip") * jnp.expand_dims(weight, (1 - axis, 2))
        for index, weight in zip(taps.index, taps.weight, strict=True)
    ]
    return functools.reduce(jnp.add, terms)
