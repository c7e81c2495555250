"""Which of the matched boxes a loss is taken of: a fixed number, some of them positive, drawn evenly."""

import jax
import jax.numpy as jnp

from qsdt_jax.detection.matching import NEGATIVE


def sample(key: jax.Array, matched: jax.Array, number: int, positives: int) -> tuple[jax.Array, jax.Array]:
    """Draws positive boxes, and negative ones in the places that are left.

    No box is drawn twice. Where there are too few, places are left empty.

    Args:
      key: of this image.
      matched: int32 (N,), see `matching.match`.
      number: of places.
      positives: most places for positive boxes.

    Returns:
      Indices int32 (number,), positive boxes before negative ones, and weights float32 (number,): 1, or 0 in
      the empty places at the end, whose indices are of any box.
    """
    # float32 whatever the default is, for one result.
    priority = jax.random.uniform(key, matched.shape, jnp.float32)

    def first(wanted: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        highest, index = jax.lax.top_k(jnp.where(wanted, priority, -1), min(count, len(matched)))
        return index.astype(jnp.int32), jnp.sum(highest >= 0, dtype=jnp.int32)

    positive, positive_count = first(matched >= 0, min(positives, number))
    negative, negative_count = first(matched == NEGATIVE, number)
    place = jnp.arange(number, dtype=jnp.int32)
    # Negatives follow right after the positives; out of range only where the place is empty.
    indices = jnp.where(
        place < positive_count,
        positive.at[place].get(mode="clip"),
        negative.at[place - positive_count].get(mode="clip"),
    )
    return indices, (place < positive_count + negative_count).astype(jnp.float32)
