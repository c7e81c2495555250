"""The region proposal network: for each anchor a score that an object is there, and the deltas of its box."""

from typing import Any

import jax
from flax import linen as nn

from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.spiking_conv import SpikingConv

ANCHORS = 3  # Of each pixel, one for each aspect ratio.

narrow = nn.initializers.normal(0.01)


class RPN(nn.Module):
    """neuron -> 3x3 conv -> neuron -> two 1x1 convs (Ren et al., 2015; published code), on any level.

    Attributes:
      features: channels in between.
      numerics: shared numerical choices.
      neuron_input_gain: of every neuron, see `models.detector.MaskRCNN`.
      remat: of the 3x3 convolution, see `layers.remat`.
    """

    features: int
    numerics: Numerics
    neuron_input_gain: float = 1.0
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """A map (N, h, w, c) -> scores (N, h, w, 3), as logits, and deltas (N, h, w, 3, 4)."""
        gains: dict[str, Any] = {"input_gain": self.neuron_input_gain, "gain": 1 / self.neuron_input_gain}
        conv = SpikingConv(
            self.features,
            self.numerics,
            use_bias=True,
            batch_norm=False,
            kernel_init=narrow,
            name="conv",
            **gains,
        )
        spikes = SpikingNeuron(self.numerics, name="neuron", **gains)(call_block(self.remat, conv, x, train))

        def output(features: int, name: str) -> jax.Array:
            layer = QConv(
                features,
                self.numerics,
                use_bias=True,
                kernel_init=narrow,
                bias_init=nn.initializers.zeros,
                name=name,
            )
            return layer(spikes, train).real

        scores, deltas = output(ANCHORS, "score"), output(4 * ANCHORS, "delta")
        return scores, deltas.reshape(*scores.shape, 4)
