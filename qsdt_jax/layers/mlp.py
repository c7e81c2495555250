"""The spiking MLP of the transformer blocks."""

import jax
from flax import linen as nn

from qsdt_jax.core.affine import Affine
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv
from qsdt_jax.layers.spiking import SpikingNeuron


class MLP(nn.Module):
    """Twice neuron -> 1x1 convolution with bias -> BN, C -> rC -> C (published code).

    Attributes:
      numerics: shared numerical choices.
      mlp_ratio: r.
    """

    numerics: Numerics
    mlp_ratio: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Affine:
        """x (N, H, W, C) -> the same shape; in evaluation not yet scaled."""
        channels, y = x.shape[-1], Affine(x)
        for i, features in enumerate((self.mlp_ratio * channels, channels), start=1):
            spikes = SpikingNeuron(self.numerics, name=f"neuron{i}")(y)
            y = QConv(features, self.numerics, use_bias=True, name=f"fc{i}")(spikes, train)
            y = BatchNorm(self.numerics, name=f"bn{i}")(y, train)
        return y
