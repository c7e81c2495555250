"""Proposals: the best boxes of the region proposal network (Ren et al., 2015; Lin et al., 2017)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.detection.boxes import clipped, decode
from qsdt_jax.detection.nms import RESOLUTION, nms, ranked

NMS_THRESHOLD = 0.7


class Proposals(NamedTuple):
    """Boxes by descending score, in slots.

    Attributes:
      boxes: (P, 4) in pixels, within the image; zeros in empty slots.
      scores: (P,) probability of an object; 0 in empty slots.
      valid: bool (P,), whether the slot is in use.
    """

    boxes: jax.Array
    scores: jax.Array
    valid: jax.Array


def propose(
    scores: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[jax.Array | np.ndarray],
    inside: Sequence[jax.Array],
    size: jax.Array,
    per_level: int,
    number: int,
    resolution: float = RESOLUTION,
) -> Proposals:
    """Best anchors of each level, moved, without doubles, and the best of all levels. Nothing has a gradient.

    Args:
      scores: logits of each level (h, w, ratios).
      deltas: (h, w, ratios, 4).
      anchors: (h w ratios, 4) of each level, see `anchors.anchors`.
      inside: bool (h w ratios,); other anchors make no proposal.
      size: height and width of the image within the array (2,).
      per_level: boxes taken of each level, before non-maximum suppression.
      number: P, of slots.
      resolution: scores are rounded to it before each sort; of equal ones the first (level, row, column,
        ratio) is the better.

    Returns:
      P proposals, of the type of the anchors. Boxes without area after the cut at the border are left out.
    """
    levels = [
        _of_level(*level, size, per_level, resolution)
        for level in jax.lax.stop_gradient(list(zip(scores, deltas, anchors, inside, strict=True)))
    ]
    boxes, probability, valid = (jnp.concatenate(x) for x in zip(*levels, strict=True))
    count = min(number, len(boxes))
    _, best = jax.lax.top_k(ranked(probability, valid, resolution), count)
    empty = number - count
    valid = jnp.pad(valid[best], (0, empty))
    return Proposals(
        jnp.where(valid[:, None], jnp.pad(boxes[best], ((0, empty), (0, 0))), 0),
        jnp.where(valid, jnp.pad(probability[best], (0, empty)), 0),
        valid,
    )


def _of_level(
    scores: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array | np.ndarray,
    inside: jax.Array,
    size: jax.Array,
    number: int,
    resolution: float,
) -> Proposals:
    """The proposals of one level in the order of their score, those dropped still among them as invalid."""
    anchors = jnp.asarray(anchors)
    probability = jax.nn.sigmoid(scores.reshape(-1).astype(anchors.dtype))
    rank = ranked(probability, inside, resolution)
    _, best = jax.lax.top_k(rank, min(number, len(anchors)))
    boxes = decode(deltas.reshape(-1, 4)[best].astype(anchors.dtype), anchors[best])
    boxes = clipped(boxes, size)
    valid = inside[best] & jnp.all(boxes[:, 2:] > boxes[:, :2], axis=-1)
    keep = nms(boxes, probability[best], valid, NMS_THRESHOLD, resolution)
    return Proposals(boxes, probability[best], keep)
