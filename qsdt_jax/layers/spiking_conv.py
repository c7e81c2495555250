"""Neuron -> quantised convolution -> batch norm: the unit of which neck and head of dense tasks are made."""

import jax
from flax import linen as nn
from jax.nn.initializers import Initializer

from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv, conv_init
from qsdt_jax.layers.spiking import SpikingNeuron

# PyTorch's `xavier_uniform_`: uniform in +-sqrt(6 / (fan_in + fan_out)).
xavier_uniform = nn.initializers.xavier_uniform()


class SpikingConv(nn.Module):
    """neuron -> convolution that keeps the size -> batch norm.

    Attributes:
      features: output channels.
      numerics: shared numerical choices.
      kernel_size: odd, in pixels.
      use_bias: a bias before the batch norm, which starts at 0 and changes nothing but the running mean.
      input_gain: of the neuron, see `SpikingNeuron`.
      kernel_init: of the convolution.
    """

    features: int
    numerics: Numerics
    kernel_size: int = 3
    use_bias: bool = False
    input_gain: float = 1.0
    kernel_init: Initializer = conv_init

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (N, H, W, C) real values -> (N, H, W, features)."""
        spikes = SpikingNeuron(self.numerics, input_gain=self.input_gain, name="neuron")(x)
        conv = QConv(
            self.features,
            self.numerics,
            kernel_size=self.kernel_size,
            padding=self.kernel_size // 2,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=nn.initializers.zeros,
            name="conv",
        )
        return BatchNorm(self.numerics, name="bn")(conv(spikes, train), train).real
