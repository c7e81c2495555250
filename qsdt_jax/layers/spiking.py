"""The spiking neuron as a layer: rectification, firing, and the spikes made visible."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from qsdt_jax.core.affine import Affine, real
from qsdt_jax.core.exact import rounded
from qsdt_jax.core.neurons import fire
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics

Rectify = Literal["bn", "norm"]


class SpikingNeuron(nn.Module):
    """A layer of neurons; being a module, its spikes can be captured by name (`capture_intermediates`).

    Neurons of a learned decay have a parameter "w", a number, with decay = 1 - sigmoid(w).

    Attributes:
      numerics: shared numerical choices.
      gain: factor on the value of a spike; 2 after the attention product (published code).
      input_gain: factor on the input current; 1/4 in neck and head of the published segmenter, whose neurons
        are round(clip(x, 0, 4)) / 4, and of the published detector, whose are round(clip(x, 0, 4)), gain 4.
      threshold: in the place of the network's, see `core.neurons.Neuron`; None for that.
    """

    numerics: Numerics
    gain: float = 1.0
    input_gain: float = 1.0
    threshold: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array | Affine) -> Spikes | jax.Array:
        """x (N, ...) input current -> spikes of that shape; without a neuron, max(x, 0)."""
        if self.input_gain != 1:
            x = x * self.input_gain if isinstance(x, Affine) else rounded(x * self.input_gain)
        neuron = self.numerics.neuron
        if neuron is None:
            return jnp.maximum(real(x), 0)
        if self.threshold is not None:
            neuron = dataclasses.replace(neuron, threshold=self.threshold)
        x, share = real(x), None
        if neuron.learned_decay:
            start = nn.initializers.constant(math.log((1 - neuron.decay) / neuron.decay))
            share = jax.nn.sigmoid(self.param("w", start, (), self.numerics.param_dtype)).astype(x.dtype)
        spikes = fire(x, neuron, share)
        return spikes.replace(step=self.gain * spikes.step)


class HeadRectify(nn.Module):
    """Standardises the potential of each attention head into the range of the neuron.

    The paper moves the zero-centred bell of q, k, v into 0..1 before the neuron, which raises the entropy
    of the spike counts; the published code leaves that to the batch norm before ("bn", which adds no
    module). This is `rectify="norm"` of this project: mean and variance per head over batch, tokens and the
    head's channels, then a learned gain and shift that start at std 1/4 and mean 1/2, so that the levels
    are used about evenly.
    """

    numerics: Numerics
    num_heads: int

    @nn.compact
    def __call__(self, x: Affine, train: bool) -> Affine:
        """x (N, H, W, C), what a layer gives -> the same shape; raises TypeError where x is no `Affine`."""
        head_width = x.shape[-1] // self.num_heads
        norm = BatchNorm(self.numerics, shared=head_width, scale_init=0.25, bias_init=0.5, name="norm")
        return norm(x, train)
