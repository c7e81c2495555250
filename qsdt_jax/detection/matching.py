"""Which ground truth each box is matched to, by intersection over union (Ren et al., 2015; mmdetection)."""

import jax
import jax.numpy as jnp

NEGATIVE, IGNORED = -1, -2
TIE = 1e-5  # IoUs closer than that are equal: rounding would choose among boxes that all contain an object.


def match(
    iou: jax.Array, valid: jax.Array, positive: float, negative: float, low_quality: float | None
) -> jax.Array:
    """The ground truth of each box.

    A box whose best IoU is `positive` or more belongs to that ground truth, to the first of equals; below
    `negative` it is negative; in between it is ignored. With low quality, every ground truth then takes all
    boxes that overlap it as much as any does, if that is `low_quality` or more; of several that take the same
    box the last gets it. So a ground truth without a good box has a match too.

    Args:
      iou: (G, N), of ground truths and boxes.
      valid: bool (G,); other ground truths match nothing.
      positive: an IoU.
      negative: an IoU.
      low_quality: an IoU, or None for no matches of low quality.

    Returns:
      int32 (N,): the index of a ground truth, or NEGATIVE, or IGNORED.
    """
    if not len(iou):
        return jnp.full(iou.shape[1], NEGATIVE, jnp.int32)
    # The barrier: a compiler may compute an IoU anew for each use, and round it otherwise.
    iou = jax.lax.optimization_barrier(jnp.where(valid[:, None], iou, -1))
    best = jnp.max(iou, axis=0)
    matched = jnp.where(best < negative, NEGATIVE, IGNORED).astype(jnp.int32)
    matched = jnp.where(best >= positive, jnp.argmax(iou, axis=0).astype(jnp.int32), matched)
    if low_quality is None:
        return matched
    own_best = jnp.max(iou, axis=1, keepdims=True, initial=-1)
    taken = (iou >= own_best - TIE) & (own_best >= low_quality)
    index = jnp.arange(len(iou), dtype=jnp.int32)[:, None]
    last = jnp.max(jnp.where(taken, index, -1), axis=0)
    return jnp.where(last >= 0, last, matched)
