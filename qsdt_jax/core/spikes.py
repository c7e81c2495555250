"""A value of spikes as a type: integer counts and the step that one spike is worth."""

import jax
from flax import struct


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
    """

    counts: jax.Array
    step: float = struct.field(pytree_node=False)
    levels: int = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.counts.shape

    @property
    def values(self) -> jax.Array:
        """The real values s = counts * step, in the dtype of the counts."""
        return self.counts * self.step


def values_of(x: Spikes | jax.Array) -> jax.Array:
    """The real values of spikes, or of an array."""
    return x.values if isinstance(x, Spikes) else x
