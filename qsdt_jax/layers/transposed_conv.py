"""Quantised 2x2 transposed convolution of stride 2: each pixel becomes four, which do not overlap."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv, conv_init


class TransposedConv(nn.Module):
    """One 1x1 product to four times the channels, a bias, and a rearrangement.

    Channel (i * 2 + j) * features + o of the product is channel o of the pixel at row i and column j of the
    four. Quantised weights have a step size for each of the 4 * features.

    Attributes:
      features: output channels.
      numerics: shared numerical choices.
      kernel_init: of the kernel (1, 1, I, 4 * features).
    """

    features: int
    numerics: Numerics
    kernel_init: Initializer = conv_init

    @nn.compact
    def __call__(self, x: Spikes | jax.Array, train: bool) -> jax.Array:
        """x (N, H, W, I) spikes or real values -> (N, 2 H, 2 W, features)."""
        y = QConv(4 * self.features, self.numerics, kernel_init=self.kernel_init, name="conv")(x, train)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.numerics.param_dtype)
        return DepthToSpace(name="rearrange")((y + jnp.tile(bias, 4)).real)


class DepthToSpace(nn.Module):
    """Four parts of the channels become four pixels; a module, so that it is seen as a step."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (N, H, W, 4 C) -> (N, 2 H, 2 W, C), part i * 2 + j at row i and column j of the four."""
        return depth_to_space(x)


def depth_to_space(x: jax.Array) -> jax.Array:
    """As `DepthToSpace`."""
    n, height, width, channels = x.shape
    parts = x.reshape(n, height, width, 2, 2, channels // 4)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * height, 2 * width, channels // 4)
