"""Non-maximum suppression, exact, in arrays of fixed shapes.

Scores of a spiking network are often equal, and equal only up to rounding, which differs between machines. So
they are rounded before every sort, and what is then equal keeps the order of its index.
"""

import jax
import jax.numpy as jnp

from qsdt_jax.detection.boxes import iou

RESOLUTION = 1e-6  # Scores closer than that are equal.
GROUP = 8  # Sets of boxes that are computed together.


def ranked(scores: jax.Array, valid: jax.Array, resolution: float = RESOLUTION) -> jax.Array:
    """What boxes are sorted by.

    Args:
      scores: 0..1, of any shape.
      valid: whether each counts, of that shape.
      resolution: of the result.

    Returns:
      The scores in whole multiples of the resolution; minus infinity where invalid.
    """
    return jnp.where(valid, jnp.round(scores / resolution), -jnp.inf)


def nms(
    boxes: jax.Array, scores: jax.Array, valid: jax.Array, threshold: float, resolution: float = RESOLUTION
) -> jax.Array:
    """Keeps the boxes whose IoU with each better box that is kept is at most the threshold.

    That defines the result from the best box down. The definition is applied to all boxes at once, and again
    to its own result until nothing changes: as many rounds as the longest chain of boxes that decide on the
    next, about four for 2000 proposals.

    Args:
      boxes: (N, 4).
      scores: (N,), 0..1.
      valid: bool (N,); others neither cover nor stay.
      threshold: of the IoU.
      resolution: scores are rounded to it; of equal ones the first is the better.

    Returns:
      bool (N,): whether each is kept.
    """
    order = jnp.argsort(-ranked(scores, valid, resolution), stable=True)
    boxes, valid = boxes[order], valid[order]
    better = jnp.tri(len(order), k=-1, dtype=bool)  # Of each row, the boxes before it.
    covers = (iou(boxes, boxes) > threshold) & better

    def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        settled = valid & ~jnp.any(covers & keep, axis=-1)
        return settled, jnp.any(settled != keep)

    keep, _ = jax.lax.while_loop(lambda state: state[1], again, (valid, jnp.any(valid)))
    return jnp.zeros_like(keep).at[order].set(keep)


def nms_per_class(
    boxes: jax.Array,
    scores: jax.Array,
    valid: jax.Array,
    threshold: float,
    resolution: float = RESOLUTION,
    group: int = GROUP,
) -> jax.Array:
    """`nms` of each class on its own: boxes (K, N, 4), scores (K, N), valid (K, N) -> bool (K, N).

    `group` classes are computed together, in 5 N^2 bytes each.
    """

    def of_class(of: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return nms(*of, threshold, resolution)

    return jax.lax.map(of_class, (boxes, scores, valid), batch_size=group)
