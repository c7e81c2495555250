"""The mask head: for each region and class a mask in twice the resolution of the region's features."""

from typing import Any

import jax
from flax import linen as nn

from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.spiking_conv import SpikingConv, kaiming_normal
from qsdt_jax.layers.transposed_conv import TransposedConv

CONVS = 4


class MaskHead(nn.Module):
    """4 x [neuron -> 3x3 conv] -> neuron -> 2x2 transposed conv -> neuron -> 1x1 conv (published code).

    The published head has a ReLU before each neuron, which changes nothing.

    Attributes:
      num_classes: K.
      features: channels in between.
      numerics: shared numerical choices.
      neuron_input_gain: of every neuron, see `models.detector.MaskRCNN`.
      remat: of each 3x3 convolution, see `layers.remat`.
    """

    num_classes: int
    features: int
    numerics: Numerics
    neuron_input_gain: float = 1.0
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Features of regions (N, h, w, c) -> logits (N, 2 h, 2 w, K)."""
        gains: dict[str, Any] = {"input_gain": self.neuron_input_gain, "gain": 1 / self.neuron_input_gain}
        for i in range(CONVS):
            conv = SpikingConv(
                self.features,
                self.numerics,
                use_bias=True,
                batch_norm=False,
                kernel_init=kaiming_normal,
                name=f"conv{i}",
                **gains,
            )
            x = call_block(self.remat, conv, x, train)
        spikes = SpikingNeuron(self.numerics, name="neuron1", **gains)(x)
        x = TransposedConv(self.features, self.numerics, kaiming_normal, name="upsample")(spikes, train)
        classifier = QConv(
            self.num_classes,
            self.numerics,
            use_bias=True,
            kernel_init=kaiming_normal,
            bias_init=nn.initializers.zeros,
            name="classifier",
        )
        return classifier(SpikingNeuron(self.numerics, name="neuron2", **gains)(x), train).real
