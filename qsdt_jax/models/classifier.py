"""The classifier and its published sizes."""

from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.core.affine import real
from qsdt_jax.core.exact import exact_mean
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
    """

    num_classes: int = 1000

    def setup(self):
        super().setup()
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        self.head_neuron = SpikingNeuron(self.numerics)
        self.head = QDense(self.num_classes, self.numerics.of("head"))

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
        mean = jnp.mean if train else exact_mean
        pooled = mean(self.features(images, train=train)["stage4"], (1, 2))
        logits = real(self.head(self.head_neuron(pooled), train=train))
        steps = logits.reshape(-1, self.timesteps, self.num_classes)
        return mean_over_time(steps)


def mean_over_time(steps: jax.Array) -> jax.Array:
    """Mean over axis 1 of (B, T, K), added up in the order of time."""
    total = steps[:, 0]
    for t in range(1, steps.shape[1]):
        total = total + steps[:, t]
    return total * (1 / steps.shape[1])
