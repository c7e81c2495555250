"""Down-sampling: [neuron ->] quantised convolution -> batch norm; and by leaving out pixels."""

import jax
from flax import linen as nn
from jax.nn.initializers import Initializer

from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv, conv_init
from qsdt_jax.layers.spiking import SpikingNeuron


class Downsample(nn.Module):
    """Halves the resolution (stride 2) or only changes the width (stride 1).

    Attributes:
      features: output channels.
      numerics: shared numerical choices.
      kernel_size, stride, padding: of the convolution, in pixels.
      spiking: puts a neuron before the convolution; the stem sees the image itself.
      use_bias: of the convolution; it changes nothing but the running mean.
      kernel_init: of the convolution.
    """

    features: int
    numerics: Numerics
    kernel_size: int = 3
    stride: int = 2
    padding: int = 1
    spiking: bool = True
    use_bias: bool = True
    kernel_init: Initializer = conv_init

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (N, H, W, C) -> (N, H / stride, W / stride, features)."""
        inputs = SpikingNeuron(self.numerics, name="neuron")(x) if self.spiking else x
        y = QConv(
            self.features,
            self.numerics,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            name="conv",
        )(inputs, train)
        return BatchNorm(self.numerics, name="bn")(y, train).real


class Subsample(nn.Module):
    """Every second pixel along both axes, from the first on; a module, so that it is seen as a step."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (N, H, W, C) -> (N, H / 2, W / 2, C), sizes rounded up."""
        return x[:, ::2, ::2]
