"""Quantised convolution and dense layer: b-bit weights, spikes or real values in."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from qsdt_jax.core.affine import Affine, real
from qsdt_jax.core.exact import Whole, check_sums, rounded
from qsdt_jax.core.lsq import QuantizedWeight, initial_step_size, quantize_by_bits
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.product import exact_convolution, exact_selection, scaled_convolution

# PyTorch's default for convolutions: uniform in +-1/sqrt(fan_in).
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# timm's `trunc_normal_(std=.02)`: it cuts at +-2, a hundred standard deviations out, so it is a plain normal.
# (`nn.initializers.truncated_normal` cuts at two standard deviations and leaves 0.88 of this spread.)
head_init = nn.initializers.normal(0.02)


class QConv(nn.Module):
    """2-D convolution with b-bit weights.

    Attributes:
      features: output channels O.
      numerics: shared numerical choices.
      kernel_size: side of the square kernel, in pixels.
      stride, padding: in pixels; the padding is symmetric.
      depthwise: one filter per channel.
      groups: of neighbouring channels, each with filters of its own; 1 for a dense convolution.
      use_bias: adds a float bias.
      kernel_init, bias_init: initial values; a bias without its own is drawn as PyTorch does by default.
    """

    features: int
    numerics: Numerics
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    depthwise: bool = False
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = conv_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Spikes | Affine | jax.Array, train: bool) -> Affine:
        """x (N, H, W, I) spikes or real values -> (N, H', W', O), in evaluation not yet scaled."""
        x = x if isinstance(x, Spikes) else real(x)
        channels = _values_of(x).shape[-1]
        groups = channels if self.depthwise else self.groups
        kernel_shape = (self.kernel_size, self.kernel_size, channels // groups, self.features)
        numerics = self.numerics.of(self.path)
        weight = _quantized_kernel(self, numerics, kernel_shape, self.kernel_init)
        multiply = _multiply if train else _multiply_unscaled
        y = multiply(x, weight, ConvGeometry(self.stride, self.padding, groups), numerics)
        if not self.use_bias:
            return y
        bound = 1 / math.sqrt(math.prod(kernel_shape[:3]))
        bias_init = _uniform(bound) if self.bias_init is None else self.bias_init
        bias = self.param("bias", bias_init, (self.features,), numerics.param_dtype)
        return y + bias


class QDense(nn.Module):
    """Dense layer with b-bit weights and a float bias.

    Attributes:
      features: outputs O.
      numerics: shared numerical choices.
      kernel_init: initial values; the bias starts at 0.
      use_bias: adds the bias.
    """

    features: int
    numerics: Numerics
    kernel_init: Initializer = head_init
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Spikes | jax.Array, train: bool) -> Affine:
        """x (N, I) spikes or real values -> (N, O), in evaluation not yet scaled."""
        numerics = self.numerics.of(self.path)
        weight = _quantized_kernel(self, numerics, (_values_of(x).shape[-1], self.features), self.kernel_init)
        pixels = jax.tree.map(lambda a: a[:, None, None, :], x)
        kernel = weight.replace(integers=weight.integers[None, None])
        multiply = _multiply if train else _multiply_unscaled
        y = multiply(pixels, kernel, ConvGeometry(), numerics)
        y = y.replace(values=y.values[:, 0, 0, :])
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,), numerics.param_dtype)


def _values_of(x: Spikes | jax.Array) -> jax.Array:
    return x.counts if isinstance(x, Spikes) else x


def _quantized_kernel(module: nn.Module, numerics: Numerics, shape: tuple[int, ...], init) -> QuantizedWeight:
    """The layer's kernel and step size as parameters, quantised as its numerics ask."""
    kernel = module.param("kernel", init, shape, numerics.param_dtype)
    if numerics.bits in (1, 32):
        return quantize_by_bits(kernel, None, numerics.bits)
    # The published code waits for the first training forward to set alpha; here it starts with
    # the weights.
    step_size = module.param("step_size", lambda _: initial_step_size(kernel, numerics.bits))
    return quantize_by_bits(kernel, step_size, numerics.bits)


def _multiply(
    x: Spikes | jax.Array, weight: QuantizedWeight, geometry: ConvGeometry, numerics: Numerics
) -> Affine:
    """Integers first, one scale after; a real x is multiplied in the network's dtype."""
    scale = weight.scale.astype(numerics.real_dtype)
    if isinstance(x, Spikes):
        scale = scale * x.step
    return Affine(_convolve(x, weight.integers, scale, geometry, numerics, numerics.dtype))


def _multiply_unscaled(
    x: Spikes | jax.Array, weight: QuantizedWeight, geometry: ConvGeometry, numerics: Numerics
) -> Affine:
    """The product alone, whose scale is to be composed with what follows.

    Spikes are multiplied as in training: the product is a whole number. With `exact_evaluation` a real x is
    multiplied in digits, so the result does not depend on the operand type of the training either, and so are
    float weights of spikes. Float weights of real values have no exact product.
    """
    scale = weight.scale.astype(numerics.real_dtype)
    floats = numerics.bits == FLOAT_BITS
    if numerics.exact_evaluation and isinstance(x, Spikes) and floats:
        counts, kernel = x.counts.astype(scale.dtype), weight.integers.astype(scale.dtype)
        y = exact_selection(counts, kernel, geometry, x.levels)
    elif isinstance(x, Spikes) or floats or not numerics.exact_evaluation:
        y = _convolve(x, weight.integers, jnp.ones_like(scale), geometry, numerics)
    else:
        y = exact_convolution(x, weight.integers.astype(scale.dtype), geometry, numerics.bits)
    if isinstance(x, Spikes):
        scale = rounded(scale * x.step)
    return Affine(values=y, scale=scale, shift=jnp.zeros_like(scale))


def _convolve(
    x: Spikes | jax.Array,
    integers: jax.Array,
    scale: jax.Array,
    geometry: ConvGeometry,
    numerics: Numerics,
    stored: DTypeLike | None = None,
) -> jax.Array:
    """conv(counts or real values, integers) * scale.

    Raises:
      ValueError: `exact_evaluation` is asked for, and nothing holds the largest sums of counts exactly.
    """
    whole = _sizes(x, numerics)
    if whole is not None and numerics.exact_evaluation:
        check_sums(f"a layer of {integers.shape}", whole.sum_of(math.prod(integers.shape[:3])))
    operand_dtype = numerics.dtype if whole is None else numerics.spike_operand_dtype
    values = _values_of(x).astype(numerics.real_dtype)
    codes = x.codes if whole is not None and stored is not None and isinstance(x, Spikes) else None
    return scaled_convolution(
        values, integers, scale, geometry, operand_dtype, numerics.dtype, whole, stored, codes
    )


def _sizes(x: Spikes | jax.Array, numerics: Numerics) -> Whole | None:
    """How large counts and integer weights are; None for real values, or real weights."""
    if not isinstance(x, Spikes) or numerics.bits == 32:
        return None
    return Whole(left=x.levels, right=2 ** (numerics.bits - 1))


def _uniform(bound: float):
    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
