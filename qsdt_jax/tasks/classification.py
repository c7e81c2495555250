"""The classification task."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.data.mixing import mix_batch
from qsdt_jax.losses.classification import cross_entropy
from qsdt_jax.models import Classifier
from qsdt_jax.randomness import Purpose
from qsdt_jax.tasks.accuracy import accuracy_sums, summarize
from qsdt_jax.tasks.task import Batch, Variables


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """Images to classes by cross-entropy.

    Attributes:
      model: the classifier.
      image_shape: shape of one input, (H, W, C) or (T, H, W, C).
      label_smoothing: in training only, never in the evaluation loss.
      mixup_alpha, cutmix_alpha: of the Beta distributions of mixing in training; 0 for none.
    """

    model: Classifier
    image_shape: tuple[int, ...]
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    best_metric: str = "eval/top1"

    def init(self, key: jax.Array) -> Variables:
        """Variables of the model, drawn with `key`."""
        images = jnp.zeros((1, *self.image_shape), self.model.dtype)
        return dict(self.model.init(key, images))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean cross-entropy of a batch {"image": (B, ...), "label": (B,)}.

        Args:
          variables: of the model.
          batch: one micro-batch, whose images are mixed among themselves.
          key: of this micro-batch; drop path and mixing follow from it.
          step: plays no role.
        """
        images, labels = self.mixed(batch, key)
        logits, updates = self.model.apply(
            variables, images, train=True, rngs={"drop_path": key}, mutable=["batch_stats"]
        )
        loss = self.label_loss(logits, labels)
        return loss, (updates["batch_stats"], {"loss": loss})

    def mixed(self, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images and labels as the network sees them in training."""
        images, labels = batch["image"], batch["label"]
        if not (self.mixup_alpha or self.cutmix_alpha):
            return images, labels
        return mix_batch(
            images,
            labels,
            jax.random.fold_in(key, Purpose.MIXING),
            num_classes=self.model.num_classes,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
        )

    def label_loss(self, logits: Any, labels: jax.Array) -> jax.Array:
        """The mean cross-entropy."""
        return jnp.mean(cross_entropy(logits, labels, self.label_smoothing))

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Sums of a batch {"image", "label", "mask"}; rows with mask 0 are padding."""
        logits: Any = self.model.apply(variables, batch["image"])
        return accuracy_sums(logits, batch["label"], batch["mask"])

    def summarize(self, sums) -> dict[str, float]:
        """Top-1, top-5 in percent, and the mean loss."""
        return summarize(sums)
