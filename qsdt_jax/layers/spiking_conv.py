"""neuron -> quantised convolution [-> batch norm], of which necks and heads of dense tasks are made."""

import jax
from flax import linen as nn
from jax.nn.initializers import Initializer

from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv, conv_init
from qsdt_jax.layers.spiking import SpikingNeuron

# PyTorch's `xavier_uniform_`: uniform in +-sqrt(6 / (fan_in + fan_out)).
xavier_uniform = nn.initializers.xavier_uniform()
# PyTorch's `kaiming_normal_(mode="fan_out")`: normal of variance 2 / fan_out.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class SpikingConv(nn.Module):
    """neuron -> convolution [-> batch norm]; with stride 1 the size stays.

    Attributes:
      features: output channels.
      numerics: shared numerical choices.
      kernel_size, stride: in pixels, the first odd.
      use_bias: a bias of the convolution, which starts at 0; before a batch norm it changes nothing but the
        running mean.
      batch_norm: whether one follows.
      input_gain, gain: of the neuron, see `SpikingNeuron`.
      kernel_init: of the convolution.
    """

    features: int
    numerics: Numerics
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = False
    batch_norm: bool = True
    input_gain: float = 1.0
    gain: float = 1.0
    kernel_init: Initializer = conv_init

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (N, H, W, C) real values -> (N, H / stride, W / stride, features), sizes rounded up."""
        neuron = SpikingNeuron(self.numerics, self.gain, self.input_gain, name="neuron")
        conv = QConv(
            self.features,
            self.numerics,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.kernel_size // 2,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=nn.initializers.zeros,
            name="conv",
        )
        y = conv(neuron(x), train)
        return (BatchNorm(self.numerics, name="bn")(y, train) if self.batch_norm else y).real
