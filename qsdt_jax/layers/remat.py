"""Which activations the backward pass computes again: less memory, more time, equal numbers to rounding."""

from typing import Any, Literal

import jax
from flax import linen as nn

from qsdt_jax.core.kept import KEPT

Remat = Literal["none", "blocks", "spikes"]


def call_block(remat: Remat, block: nn.Module, x: jax.Array, train: bool, *others: Any) -> Any:
    """block(x, train, *others), of which a training keeps less than all.

    With "blocks" it keeps what goes in, x and others. With "spikes" it keeps the byte of each neuron and the
    statistics of each batch norm, and computes again what is between two neurons: products and their
    normalisation, no spike.
    """
    if not train or remat == "none":
        return block(x, train, *others)  # pyright: ignore[reportCallIssue]
    call: Any = type(block).__call__
    policy = jax.checkpoint_policies.save_only_these_names(KEPT) if remat == "spikes" else None
    return nn.remat(call, static_argnums=(2,), policy=policy)(block, x, train, *others)
