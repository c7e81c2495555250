"""What leads from the maps of a batch to the features of its regions: anchors, proposals, pooling.

A map has N = B * T rows, the T time steps of an image next to each other.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.detection.anchors import anchors, inside
from qsdt_jax.detection.proposals import Proposals, propose
from qsdt_jax.detection.roi_align import STRIDES as POOLED_STRIDES
from qsdt_jax.detection.roi_align import roi_align

STRIDES = (4, 8, 16, 32, 64)  # Of the five maps, as anchors and pooling take them.
BOX_SIDE, MASK_SIDE = 7, 14  # Of what is pooled of a region, in cells.


class Anchors(NamedTuple):
    """The anchors of each level (n, 4), and which of them propose and which are learned from, bool (B, n)."""

    boxes: list[np.ndarray]
    proposing: list[jax.Array]
    learning: list[jax.Array]


def anchors_of(
    maps: Sequence[jax.Array], images: jax.Array, sizes: jax.Array, scale: float, published: bool
) -> Anchors:
    """The anchors of maps.

    Anchors whose centres lie in the padding take no part. With the published geometry, whose coarsest maps
    are twice as large as their strides say, all propose, and those in the array are learned from.

    Args:
      maps: five of (N, h, w, c), at `STRIDES`.
      images: (B, ..., H, W, C), of which the maps are.
      sizes: (B, 2) height and width of what is image.
      scale: side of a square anchor, in strides.
      published: whether the geometry is the published one.
    """
    shapes = [(x.shape[1], x.shape[2]) for x in maps]
    levels = list(zip(shapes, STRIDES, strict=True))
    boxes = [anchors(shape, stride, scale, dtype=maps[0].dtype) for shape, stride in levels]
    if published:
        sizes = jnp.broadcast_to(jnp.array(images.shape[-3:-1], sizes.dtype), sizes.shape)
    learning = [jax.vmap(functools.partial(inside, shape, stride))(sizes) for shape, stride in levels]
    return Anchors(boxes, [jnp.ones_like(x) for x in learning] if published else learning, learning)


def proposals_of(
    scores: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    levels: Anchors,
    sizes: jax.Array,
    counts: tuple[int, int],
    resolution: float,
) -> Proposals:
    """The proposals of each image of a batch.

    Args:
      scores: logits of each level (B, h, w, ratios).
      deltas: (B, h, w, ratios, 4).
      levels: the anchors.
      sizes: (B, 2) height and width of what is image.
      counts: boxes of each level before non-maximum suppression, and P of an image.
      resolution: to which scores are rounded before each sort.
    """

    def of_image(
        scores: list[jax.Array], deltas: list[jax.Array], proposing: list[jax.Array], size: jax.Array
    ) -> Proposals:
        return propose(scores, deltas, levels.boxes, proposing, size, *counts, resolution=resolution)

    return jax.vmap(of_image)(list(scores), list(deltas), levels.proposing, sizes)


def pooled(maps: Sequence[jax.Array], boxes: jax.Array, side: int) -> jax.Array:
    """Features of boxes (B, R, 4) at every time step, (N, R, side, side, c)."""
    every_step = jnp.repeat(boxes, maps[0].shape[0] // boxes.shape[0], axis=0)
    return roi_align(maps[: len(POOLED_STRIDES)], every_step, side)
