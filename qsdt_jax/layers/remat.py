"""Which activations the backward pass computes again: less memory, more time, equal numbers to rounding."""

from typing import Any, Literal

import jax
from flax import linen as nn

Remat = Literal["none", "blocks"]


def call_block(remat: Remat, block: nn.Module, x: jax.Array, train: bool, *others: Any) -> Any:
    """block(x, train, *others); with "blocks" a training keeps of it what goes in, x and others, alone."""
    if not train or remat == "none":
        return block(x, train, *others)  # pyright: ignore[reportCallIssue]
    call: Any = type(block).__call__
    return nn.remat(call, static_argnums=(2,))(block, x, train, *others)
