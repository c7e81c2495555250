"""What the heads of Mask R-CNN learn: targets of anchors, of sampled boxes and of their masks.

A ground truth is a box and a category. They lie in one slot or more, which is empty where the category is
negative or the box has no area. Nothing has a gradient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.detection.boxes import UNIT_STD, encode, iou
from qsdt_jax.detection.matching import IGNORED, match
from qsdt_jax.detection.roi_align import interpolation
from qsdt_jax.detection.sampling import sample

BOX_STD = (0.1, 0.1, 0.2, 0.2)  # Of the deltas of the box head (Girshick, 2015).
MASK_SIZE = 28


class AnchorTargets(NamedTuple):
    """Targets of the region proposal network, for each anchor.

    Attributes:
      label: (N,) 1 for an object, else 0.
      weight: float32 (N,) 1 for the sampled anchors, else 0.
      deltas: (N, 4) to the ground truth; 0 where the label is.
    """

    label: jax.Array
    weight: jax.Array
    deltas: jax.Array


class BoxTargets(NamedTuple):
    """Sampled boxes, positive ones first, and targets of the box head.

    Attributes:
      boxes: (S, 4) in pixels.
      weight: float32 (S,) 1, or 0 in empty slots.
      positive: bool (S,), whether the box has a ground truth; never in an empty slot.
      matched: int32 (S,) its ground truth; 0 where it has none.
      category: int32 (S,) of the ground truth, or K, the background.
      deltas: (S, 4) to the ground truth, divided by BOX_STD; 0 where not positive.
    """

    boxes: jax.Array
    weight: jax.Array
    positive: jax.Array
    matched: jax.Array
    category: jax.Array
    deltas: jax.Array


def anchor_targets(
    key: jax.Array,
    anchors: jax.Array | np.ndarray,
    inside: jax.Array,
    boxes: jax.Array,
    category: jax.Array,
    number: int = 256,
) -> AnchorTargets:
    """Samples anchors of one image, up to half of them positive (Ren et al., 2015).

    The IoUs of 268,569 anchors (an image of 800x1344) and 100 ground truths are 107 MB in float32: map over
    images with `jax.lax.map`, not with `jax.vmap`.

    Args:
      key: of this image.
      anchors: (N, 4), of all levels.
      inside: bool (N,); other anchors take no part.
      boxes: ground truths (G, 4).
      category: int (G,), negative where the slot is empty.
      number: of sampled anchors.
    """
    anchors = jnp.asarray(anchors)
    boxes = jax.lax.stop_gradient(boxes.astype(anchors.dtype))
    overlap = jnp.where(inside, iou(boxes, anchors), -1)  # Nor are they the best of any ground truth.
    matched = match(overlap, _present(boxes, category), positive=0.7, negative=0.3, low_quality=0.3)
    matched = jnp.where(inside, matched, IGNORED)
    indices, weights = sample(key, matched, number, number // 2)
    positive, deltas = _deltas(boxes, matched, anchors)
    return AnchorTargets(
        label=positive.astype(anchors.dtype),
        weight=jnp.zeros(matched.shape, jnp.float32).at[indices].add(weights),  # Empty places add 0.
        deltas=deltas,
    )


def box_targets(
    key: jax.Array,
    proposals: jax.Array,
    valid: jax.Array,
    boxes: jax.Array,
    category: jax.Array,
    num_classes: int,
    number: int = 512,
) -> BoxTargets:
    """Samples boxes of one image, up to a quarter of them positive (Girshick, 2015).

    The ground truths are candidates too, before the proposals. Each is matched to itself, whatever lies on
    the same place. Only the first quarter of the slots can be positive: the mask head needs no others.

    Args:
      key: of this image.
      proposals: (P, 4).
      valid: bool (P,), whether the slot is in use.
      boxes: ground truths (G, 4).
      category: int (G,) 0..K - 1, negative where the slot is empty.
      num_classes: K.
      number: S, of sampled boxes.
    """
    proposals, boxes = jax.lax.stop_gradient((proposals, boxes.astype(proposals.dtype)))
    present = _present(boxes, category)
    matched = match(iou(boxes, proposals), present, positive=0.5, negative=0.5, low_quality=0.5)
    matched = jnp.concatenate(
        [
            jnp.where(present, jnp.arange(len(boxes), dtype=jnp.int32), IGNORED),
            jnp.where(valid, matched, IGNORED),
        ]
    )
    indices, weight = sample(key, matched, number, number // 4)
    candidates, matched = jnp.concatenate([boxes, proposals])[indices], matched[indices]
    matched = jnp.where(weight > 0, matched, IGNORED)
    positive, deltas = _deltas(boxes, matched, candidates, BOX_STD)
    matched = jnp.where(positive, matched, 0)
    return BoxTargets(
        boxes=jnp.where(weight[:, None] > 0, candidates, 0),
        weight=weight,
        positive=positive,
        matched=matched,
        category=jnp.where(positive, category.astype(jnp.int32)[matched], num_classes),
        deltas=deltas,
    )


def mask_targets(
    masks: jax.Array, boxes: jax.Array, rois: jax.Array, matched: jax.Array, size: int = MASK_SIZE
) -> jax.Array:
    """The shape of an object within each box, by RoIAlign (He et al., 2017).

    Args:
      masks: uint8 (G, m, m), the share of each cell of the object's own box that it covers, 0..255.
      boxes: the objects' own boxes (G, 4).
      rois: boxes (S, 4).
      matched: int (S,), the object of each, 0..G - 1.
      size: of the result.

    Returns:
      float32 (S, size, size): 1 where the object covers half of it or more, else 0.
    """
    own = boxes.astype(rois.dtype)[matched]
    side = own[:, 2:] - own[:, :2]
    cells = masks.shape[1] / jnp.where(side > 0, side, 1)
    low, high = ((corner - own[:, :2]) * cells for corner in (rois[:, :2], rois[:, 2:]))
    rows = interpolation(low[:, 1], high[:, 1], masks.shape[1], size)
    columns = interpolation(low[:, 0], high[:, 0], masks.shape[2], size)
    cover = masks[matched].astype(rows.dtype)
    # In full precision: half is an exact threshold.
    value = jnp.einsum("sph,shw,sqw->spq", rows, cover, columns, precision="highest")
    return (value >= 255 / 2).astype(jnp.float32)


def _present(boxes: jax.Array, category: jax.Array) -> jax.Array:
    """Which slots (G,) hold a ground truth."""
    return (category >= 0) & jnp.all(boxes[:, 2:] > boxes[:, :2], axis=-1)


def _deltas(
    boxes: jax.Array, matched: jax.Array, reference: jax.Array, std: Sequence[float] = UNIT_STD
) -> tuple[jax.Array, jax.Array]:
    """Which of the reference boxes have a ground truth, and the deltas to it; 0 for the others."""
    positive = matched >= 0
    deltas = encode(boxes[jnp.maximum(matched, 0)], reference, std)
    return positive, jnp.where(positive[:, None], deltas, 0)
