"""Spiking feature pyramid: maps of one width at four strides, the coarse ones added to the fine ones."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.layers.spiking_conv import SpikingConv, xavier_uniform
from qsdt_jax.layers.upsample import NearestUpsample


class FPN(nn.Module):
    """The neck (Lin et al., 2017; published code), each map at twice the stride of the one before.

    From each map a lateral one, neuron -> 1x1 conv -> BN. From the coarsest down, each is enlarged to nearest
    neighbours and added to the next finer. Then neuron -> 3x3 conv -> BN on each.

    Attributes:
      features: channels of the results.
      numerics: shared numerical choices.
      input_gain: of every neuron, see `layers.spiking.SpikingNeuron`.
      remat: of each unit, see `layers.remat`.
    """

    features: int
    numerics: Numerics
    input_gain: float = 1.0
    remat: Remat = "none"

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], train: bool) -> list[jax.Array]:
        """Maps (N, h, w, c), fine to coarse -> (N, h, w, features) each."""

        def unit(x: jax.Array, name: str, kernel_size: int) -> jax.Array:
            conv = SpikingConv(
                self.features,
                self.numerics,
                kernel_size=kernel_size,
                use_bias=True,
                input_gain=self.input_gain,
                kernel_init=xavier_uniform,
                name=name,
            )
            return call_block(self.remat, conv, x, train)

        merged = [unit(x, f"lateral{i}", 1) for i, x in enumerate(maps)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = merged[i] + NearestUpsample(name=f"upsample{i}")(merged[i + 1])
        return [unit(x, f"output{i}", 3) for i, x in enumerate(merged)]
