"""RepConv, the linear map of Q-SDSA."""

import jax
from flax import linen as nn

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv


class RepConv(nn.Module):
    """1x1 -> BN with border -> depthwise 3x3 without padding -> 1x1 -> BN (published code).

    No neuron stands inside: only the first convolution receives spikes. The border is the value that the
    BN gives to zero, so the chain can be merged into one padded 3x3 convolution after training.
    """

    numerics: Numerics

    @nn.compact
    def __call__(self, x: Spikes | jax.Array, train: bool) -> Affine:
        """x (N, H, W, C) spikes -> (N, H, W, C), in evaluation not yet scaled."""
        numerics, channels = self.numerics, x.shape[-1]
        y = QConv(channels, numerics, name="conv1")(x, train)
        y = BatchNorm(numerics, border=1, name="bn1")(y, train)
        y = QConv(channels, numerics, kernel_size=3, depthwise=True, name="dwconv")(y, train)
        y = QConv(channels, numerics, name="conv2")(y, train)
        return BatchNorm(numerics, name="bn2")(y, train)
