"""The classifier and its published sizes."""

from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.core.affine import real
from qsdt_jax.core.exact import exact_mean
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.quantized import QDense
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.models.backbone import Backbone

# Widths and depth of the published sizes. S, M, L are the paper's; the rest stand in the published file.
SIZES: dict[str, dict[str, Any]] = {
    "S": {"channels": (64, 128, 256, 360), "depth": 8},
    "M": {"channels": (96, 192, 384, 480), "depth": 8},
    "L": {"channels": (128, 256, 512, 640), "depth": 8},
    "XS": {"channels": (48, 96, 192, 256), "depth": 8},
    "L12": {"channels": (128, 256, 512, 640), "depth": 12},
    "XL": {"channels": (192, 384, 768, 960), "depth": 8},
}


class QSDTransformer(Backbone):
    """Quantized spike-driven transformer for classification.

    The attributes are those of `Backbone`, and:

    Attributes:
      num_classes: outputs of the head.
      distillation_head: a second head, which a teacher's answers train instead of the labels (DeiT, Touvron
        et al., 2021). The network answers with the mean of both.
    """

    num_classes: int = 1000
    distillation_head: bool = False

    def setup(self):
        super().setup()
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        self.head_neuron = SpikingNeuron(self.numerics)
        self.head = QDense(self.num_classes, self.numerics.of("head"))
        if self.distillation_head:
            self.head_dist = QDense(self.num_classes, self.numerics.of("head"))

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores, averaged over the time steps.

        Args:
          images: (B, H, W, C) or (B, T, H, W, C), H and W multiples of 16.
          train: uses batch statistics and updates the running ones (collection "batch_stats"); drop
            path needs the random stream "drop_path".

        Returns:
          (B, num_classes) logits.

        Raises:
          ValueError: the images do not fit the network.
        """
        spikes = self._spikes(images, train)
        y = self.head(spikes, train=train)
        if not self.distillation_head:
            return self._over_time(real(y))
        other = self.head_dist(spikes, train=train)
        half = jnp.asarray(0.5, self.param_dtype)  # Before the sum, as the deployed network has it folded.
        return self._over_time(real(y * half) + real(other * half))

    def both_heads(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """As calling it, but the scores of each head: that of the labels, that of the teacher."""
        spikes = self._spikes(images, train)
        heads = (self.head, self.head_dist)
        by_labels, by_teacher = (self._over_time(real(head(spikes, train=train))) for head in heads)
        return by_labels, by_teacher

    def _spikes(self, images: jax.Array, train: bool) -> Spikes | jax.Array:
        """What the heads take: (B * T, C4)."""
        mean = jnp.mean if train else exact_mean
        return self.head_neuron(mean(self.features(images, train=train)["stage4"], (1, 2)))

    def _over_time(self, logits: jax.Array) -> jax.Array:
        return mean_over_time(logits.reshape(-1, self.timesteps, self.num_classes))


def mean_over_time(steps: jax.Array) -> jax.Array:
    """Mean over axis 1 of (B, T, K), added up in the order of time."""
    total = steps[:, 0]
    for t in range(1, steps.shape[1]):
        total = total + steps[:, t]
    return total * (1 / steps.shape[1])
