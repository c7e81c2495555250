"""Quantised convolution and dense layer: b-bit weights, spikes or real values in."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from qsdt_jax.core.lsq import QuantizedWeight, binarize, initial_step_size, quantize
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.product import scaled_convolution

# PyTorch's default for convolutions: uniform in +-1/sqrt(fan_in).
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
head_init = nn.initializers.truncated_normal(0.02)


class QConv(nn.Module):
    """2-D convolution with b-bit weights.

    Attributes:
      features: output channels O.
      numerics: shared numerical choices.
      kernel_size: side of the square kernel, in pixels.
      stride, padding: in pixels; the padding is symmetric.
      depthwise: one filter per channel.
      use_bias: adds a float bias.
    """

    features: int
    numerics: Numerics
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    depthwise: bool = False
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Spikes | jax.Array) -> jax.Array:
        """x (N, H, W, I) spikes or real values -> (N, H', W', O) real values."""
        channels = _values_of(x).shape[-1]
        groups = channels if self.depthwise else 1
        kernel_shape = (self.kernel_size, self.kernel_size, channels // groups, self.features)
        weight = _quantized_kernel(self, kernel_shape, conv_init)
        y = _multiply(x, weight, ConvGeometry(self.stride, self.padding, groups), self.numerics)
        if not self.use_bias:
            return y
        bound = 1 / math.sqrt(math.prod(kernel_shape[:3]))
        bias = self.param("bias", _uniform(bound), (self.features,), self.numerics.param_dtype)
        return y + bias


class QDense(nn.Module):
    """Dense layer with b-bit weights and a float bias.

    Attributes:
      features: outputs O.
      numerics: shared numerical choices.
    """

    features: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Spikes | jax.Array) -> jax.Array:
        """x (N, I) spikes or real values -> (N, O) real values."""
        weight = _quantized_kernel(self, (_values_of(x).shape[-1], self.features), head_init)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.numerics.param_dtype)
        pixels = jax.tree.map(lambda a: a[:, None, None, :], x)
        kernel = weight.replace(integers=weight.integers[None, None])
        y = _multiply(pixels, kernel, ConvGeometry(), self.numerics)
        return y[:, 0, 0, :] + bias


def _values_of(x: Spikes | jax.Array) -> jax.Array:
    return x.counts if isinstance(x, Spikes) else x


def _quantized_kernel(module: nn.Module, shape: tuple[int, ...], init) -> QuantizedWeight:
    """The layer's kernel and step size as parameters, quantised as its numerics ask."""
    numerics: Numerics = module.numerics
    kernel = module.param("kernel", init, shape, numerics.param_dtype)
    if numerics.bits == 32:
        return QuantizedWeight(kernel, jnp.ones(shape[-1], kernel.dtype))
    if numerics.bits == 1:
        return binarize(kernel)
    # The published code waits for the first training forward to set alpha; here it starts with
    # the weights.
    step_size = module.param("step_size", lambda _: initial_step_size(kernel, numerics.bits))
    return quantize(kernel, step_size, numerics.bits)


def _multiply(
    x: Spikes | jax.Array, weight: QuantizedWeight, geometry: ConvGeometry, numerics: Numerics
) -> jax.Array:
    """Integers first, one scale after; a real x is multiplied in the network's dtype."""
    real = numerics.real_dtype
    if isinstance(x, Spikes):
        exact = numerics.bits != 32
        operand_dtype = numerics.spike_operand_dtype if exact else numerics.dtype
        values, scale = x.counts, weight.scale.astype(real) * x.step
    else:
        operand_dtype, values, scale = numerics.dtype, x, weight.scale.astype(real)
    return scaled_convolution(
        values.astype(real), weight.integers, scale, geometry, operand_dtype, numerics.dtype
    )


def _uniform(bound: float):
    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
