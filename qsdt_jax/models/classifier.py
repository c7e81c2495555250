"""The classifier and its published sizes."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from qsdt_jax.core.exact import exact_mean
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.bits_rules import check_rules
from qsdt_jax.layers.quantized import QDense
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.models.backbone import Backbone, Stage
from qsdt_jax.models.parts import Parts

# Widths and depth of the published sizes. S, M, L are the paper's; the rest stand in the published file.
SIZES: dict[str, dict[str, Any]] = {
    "S": {"channels": (64, 128, 256, 360), "depth": 8},
    "M": {"channels": (96, 192, 384, 480), "depth": 8},
    "L": {"channels": (128, 256, 512, 640), "depth": 8},
    "XS": {"channels": (48, 96, 192, 256), "depth": 8},
    "L12": {"channels": (128, 256, 512, 640), "depth": 12},
    "XL": {"channels": (192, 384, 768, 960), "depth": 8},
}


# Names of the layers that give the classes; the second is there with a distillation head.
HEADS = HEAD, DISTILLATION_HEAD = "head", "head_dist"


class Classifier(nn.Module):
    """A backbone and, on its mean over the pixels, a neuron and a head.

    The head's variables stand beside the backbone's, not above them ("head", "block3_0", ...): the same
    backbone in another network has the same names.

    Attributes:
      backbone: gives the features.
      num_classes: outputs of the head.
      distillation_head: a second head, which a teacher's answers train instead of the labels (DeiT, Touvron
        et al., 2021). The network answers with the mean of both.
    """

    PARTS: ClassVar[Parts] = Parts(beside=HEADS, of_classes=HEADS)

    backbone: Backbone
    num_classes: int = 1000
    distillation_head: bool = False

    def setup(self):
        nn.share_scope(self, self.backbone)
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        numerics = self.backbone.numerics
        self.head_neuron = SpikingNeuron(numerics)
        self.head = QDense(self.num_classes, numerics)
        if self.distillation_head:
            self.head_dist = QDense(self.num_classes, numerics)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores, averaged over the time steps.

        Args:
          images: (B, H, W, C) or (B, T, H, W, C), H and W multiples of 16.
          train: uses batch statistics and updates the running ones (collection "batch_stats"); drop
            path needs the random stream "drop_path".

        Returns:
          (B, num_classes) logits.

        Raises:
          ValueError: the images do not fit the network; or, when variables are drawn, a bits rule fits no
            layer.
        """
        return self.over_time(self._logits(images, train))

    def steps(self, images: jax.Array, train: bool = False) -> jax.Array:
        """As calling it, but the scores of every time step: (B, T, num_classes)."""
        return self._logits(images, train).reshape(-1, self.backbone.timesteps, self.num_classes)

    def _logits(self, images: jax.Array, train: bool) -> jax.Array:
        """(B * T, num_classes)."""
        spikes = self._spikes(images, train)
        y = self.head(spikes, train)
        other = self.head_dist(spikes, train) if self.distillation_head else None
        if self.is_initializing():
            check_rules(self.backbone.bits_rules, self.variables["params"])
        if other is None:
            return y.real
        # Before the sum, as the deployed network has it folded.
        half = jnp.asarray(0.5, self.backbone.param_dtype)
        return (y * half).real + (other * half).real

    def features(self, images: jax.Array, train: bool = False) -> dict[Stage, jax.Array]:
        """See `Backbone.features`."""
        return self.backbone.features(images, train)

    def both_heads(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """As calling it, but the scores of each head: that of the labels, that of the teacher."""
        spikes = self._spikes(images, train)
        heads = (self.head, self.head_dist)
        by_labels, by_teacher = (self.over_time(head(spikes, train).real) for head in heads)
        return by_labels, by_teacher

    def _spikes(self, images: jax.Array, train: bool) -> Spikes | jax.Array:
        """What the heads take: (B * T, C4)."""
        return self.head_neuron(self.pooled(self.backbone.features(images, train)["stage4"], train))

    def pooled(self, x: jax.Array, train: bool) -> jax.Array:
        """Mean over the pixels, (B * T, h, w, C) -> (B * T, C)."""
        return (jnp.mean if train else exact_mean)(x, (1, 2))

    def over_time(self, logits: jax.Array) -> jax.Array:
        """Mean over the time steps, (B * T, K) -> (B, K)."""
        return mean_over_time(logits.reshape(-1, self.backbone.timesteps, self.num_classes))


def QSDTransformer(
    *, num_classes: int = 1000, distillation_head: bool = False, **backbone: Any
) -> Classifier:
    """The quantized spike-driven transformer for classification.

    Args:
      num_classes, distillation_head: see `Classifier`.
      **backbone: the attributes of `Backbone`; those of several values may be lists.

    Raises:
      TypeError: one of them is none of these.
    """
    return Classifier(make_backbone(**backbone), num_classes, distillation_head)


def make_backbone(**fields: Any) -> Backbone:
    """A backbone whose attributes of several values may be lists; raises TypeError for others."""
    for name in ("channels", "bits_rules"):
        if name in fields:  # A list has no hash, which a module needs.
            fields[name] = tuple(fields[name])
    return Backbone(**fields)


def mean_over_time(steps: jax.Array) -> jax.Array:
    """Mean over axis 1 of (B, T, ...), added up in the order of time."""
    total = steps[:, 0]
    for t in range(1, steps.shape[1]):
        total = total + steps[:, t]
    return total * (1 / steps.shape[1])
