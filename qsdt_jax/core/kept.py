"""What a backward pass keeps where all else is computed again (`layers.remat`), known by its name."""

import jax
from jax.ad_checkpoint import checkpoint_name

KEPT = "kept"


def kept(x: jax.Array) -> jax.Array:
    """x, which is kept: codes of neurons and statistics of batch norms."""
    return checkpoint_name(x, KEPT)
