"""Detections: what remains of the box head's classes and boxes (Girshick, 2015; mmdetection)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qsdt_jax.detection.boxes import clipped, decode
from qsdt_jax.detection.nms import RESOLUTION, nms_per_class, ranked
from qsdt_jax.detection.targets import BOX_STD

NMS_THRESHOLD = 0.5
SCORE_THRESHOLD = 0.05


class Detections(NamedTuple):
    """Objects by descending score, in slots.

    Attributes:
      boxes: (D, 4) in pixels, within the image; zeros in empty slots.
      score: (D,) probability; 0 in empty slots.
      category: int32 (D,) 0..K - 1; -1 in empty slots.
    """

    boxes: jax.Array
    score: jax.Array
    category: jax.Array


def detect(
    rois: jax.Array,
    valid: jax.Array,
    logits: jax.Array,
    deltas: jax.Array,
    size: jax.Array,
    number: int = 100,
    score_threshold: float = SCORE_THRESHOLD,
    resolution: float = RESOLUTION,
) -> Detections:
    """The best boxes of all classes: of each class those above the threshold, without doubles.

    No box is dropped before non-maximum suppression: that would change the mean average precision. With 1000
    boxes that takes 40 MB, whatever the number of classes: `nms.nms_per_class`.

    Args:
      rois: (R, 4), the boxes that were classified.
      valid: bool (R,), whether the slot is in use.
      logits: (R, K + 1), the background last.
      deltas: (R, K, 4), of each class.
      size: height and width of the image within the array (2,).
      number: D, of slots.
      score_threshold: probabilities must be above it.
      resolution: scores are rounded to it before each sort; of equal ones the first (box, class) is the
        better.

    Returns:
      D detections, of the type of the rois.
    """
    probability = jax.nn.softmax(logits.astype(rois.dtype), axis=-1)[:, :-1]
    boxes = clipped(decode(deltas.astype(rois.dtype), rois[:, None], BOX_STD), size)
    candidates = (probability > score_threshold) & valid[:, None]
    keep = nms_per_class(
        boxes.swapaxes(0, 1), probability.T, candidates.T, NMS_THRESHOLD, resolution
    ).T.reshape(-1)
    count = min(number, keep.size)
    rank, best = jax.lax.top_k(ranked(probability.reshape(-1), keep, resolution), count)
    found, empty = rank > -jnp.inf, number - count
    return Detections(
        jnp.pad(jnp.where(found[:, None], boxes.reshape(-1, 4)[best], 0), ((0, empty), (0, 0))),
        jnp.pad(jnp.where(found, probability.reshape(-1)[best], 0), (0, empty)),
        jnp.pad(
            jnp.where(found, best.astype(jnp.int32) % probability.shape[1], -1),
            (0, empty),
            constant_values=-1,
        ),
    )
