"""SepConv, the token mixer of the conv blocks, and the conv block around it."""

import jax
from flax import linen as nn

from qsdt_jax.core.affine import Affine
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv
from qsdt_jax.layers.spiking import SpikingNeuron

EXPANSION = 2


class SepConv(nn.Module):
    """neuron -> 1x1 (C -> 2C) -> BN -> neuron -> depthwise 7x7 -> 1x1 (2C -> C) -> BN (published code).

    Nothing stands between the depthwise and the second 1x1 convolution, so that one receives real values.
    """

    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Affine:
        """x (N, H, W, C) -> the same shape; in evaluation not yet scaled."""
        numerics, channels = self.numerics, x.shape[-1]
        wide = EXPANSION * channels
        spikes = SpikingNeuron(numerics, name="neuron1")(x)
        y = QConv(wide, numerics, name="pwconv1")(spikes, train)
        y = BatchNorm(numerics, name="bn1")(y, train)
        spikes = SpikingNeuron(numerics, name="neuron2")(y)
        depthwise = QConv(wide, numerics, kernel_size=7, padding=3, depthwise=True, name="dwconv")
        y = depthwise(spikes, train)
        y = QConv(channels, numerics, name="pwconv2")(y, train)
        return BatchNorm(numerics, name="bn2")(y, train)


class ConvBlock(nn.Module):
    """x + SepConv(x), then x + two spiking 3x3 convolutions C -> rC -> C (published code).

    Attributes:
      numerics: shared numerical choices.
      mlp_ratio: r, widening between the two 3x3 convolutions.
    """

    numerics: Numerics
    mlp_ratio: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (N, H, W, C) -> the same shape."""
        numerics, channels = self.numerics, x.shape[-1]
        x = x + SepConv(numerics, name="sepconv")(x, train).real
        y = Affine(x)
        for i, features in enumerate((self.mlp_ratio * channels, channels), start=1):
            spikes = SpikingNeuron(numerics, name=f"neuron{i}")(y)
            y = QConv(features, numerics, kernel_size=3, padding=1, name=f"conv{i}")(spikes, train)
            y = BatchNorm(numerics, name=f"bn{i}")(y, train)
        return x + y.real
