"""A value of spikes as a type: integer counts and the step that one spike is worth.

What a training keeps of a neuron is its code, one byte for D up to 127: the count c if the neuron's gate is
open, so that a gradient passes, and -1 - c if it is closed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike


class Spikes(struct.PyTreeNode):
    """What a spiking neuron emits: integer counts, and the real value of one spike.

    The type says that a tensor carries spikes: a layer that receives `Spikes` multiplies integers
    and scales once (additions, on spike-driven hardware), a layer that receives an array multiplies
    and accumulates.

    Attributes:
      counts: integers 0..levels, of any shape and any dtype that holds them exactly. They are kept
        in a floating dtype in training, because gradients flow through them.
      step: value of one spike; the tensor's real value is `counts * step`.
      levels: largest possible count, D in the paper.
      codes: of counts and gates, of the counts' shape; None where no neuron has made them. A GPU reads them
        in the place of counts, so whoever replaces counts replaces codes too, by None for example.
    """

    counts: jax.Array
    step: float = struct.field(pytree_node=False)
    levels: int = struct.field(pytree_node=False)
    codes: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.counts.shape

    @property
    def values(self) -> jax.Array:
        """The real values s = counts * step, in the dtype of the counts."""
        return self.counts * self.step


def codes_of(counts: jax.Array, is_open: jax.Array | None, levels: int) -> jax.Array:
    """Codes of counts up to `levels` and gates; without gates all are open."""
    dtype = np.min_scalar_type(-1 - levels)
    return (counts if is_open is None else jnp.where(is_open, counts, -1 - counts)).astype(dtype)


def counts_of(codes: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Counts in a float type that holds them, by operations that XLA fuses into products on GPUs."""
    return jnp.abs(codes.astype(dtype) + 0.5) - 0.5


def gates_of(codes: jax.Array, dtype: DTypeLike) -> jax.Array:
    """1 where a gate is open, 0 where it is closed."""
    return (codes >= 0).astype(dtype)


def values_of(x: Spikes | jax.Array) -> jax.Array:
    """The real values of spikes, or of an array."""
    return x.values if isinstance(x, Spikes) else x
