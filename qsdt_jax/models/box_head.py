"""The box head: the class of each region, and for each class the deltas of its box."""

import jax
from flax import linen as nn
from jax.nn.initializers import Initializer

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QDense
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.spiking_conv import xavier_uniform

class_init = nn.initializers.normal(0.01)
box_init = nn.initializers.normal(0.001)


class BoxHead(nn.Module):
    """neuron -> FC -> neuron -> FC [-> neuron] -> class and box (published code).

    Without the last neuron, as published, class and box take real values.

    Attributes:
      num_classes: K; one more output of the class is the background.
      features: of both hidden layers.
      numerics: shared numerical choices.
      neuron_input_gain: of every neuron, see `models.detector.MaskRCNN`.
      final_neuron: whether class and box take spikes.
    """

    num_classes: int
    features: int
    numerics: Numerics
    neuron_input_gain: float = 1.0
    final_neuron: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Features of regions (N, h, w, c) -> scores (N, K + 1), as logits, and deltas (N, K, 4)."""
        y = self._dense(self.features, "fc1", xavier_uniform)(
            self._fire(x.reshape(x.shape[0], -1), "neuron1"), train
        )
        y = self._dense(self.features, "fc2", xavier_uniform)(self._fire(y, "neuron2"), train)
        last = self._fire(y, "neuron3") if self.final_neuron else y.real
        scores = self._dense(self.num_classes + 1, "class", class_init)(last, train).real
        deltas = self._dense(4 * self.num_classes, "box", box_init)(last, train).real
        return scores, deltas.reshape(-1, self.num_classes, 4)

    def _fire(self, x: jax.Array | Affine, name: str) -> Spikes | jax.Array:
        gain = self.neuron_input_gain
        return SpikingNeuron(self.numerics, gain=1 / gain, input_gain=gain, name=name)(x)

    def _dense(self, features: int, name: str, kernel_init: Initializer) -> QDense:
        return QDense(features, self.numerics, kernel_init, name=name)
