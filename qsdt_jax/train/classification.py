"""The classification task."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp

from qsdt_jax.evaluate.classification import accuracy_sums, summarize
from qsdt_jax.losses.classification import cross_entropy
from qsdt_jax.models import QSDTransformer
from qsdt_jax.train.state import Variables
from qsdt_jax.train.task import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """Images to classes by cross-entropy.

    Attributes:
      model: the classifier.
      image_shape: shape of one input, (H, W, C) or (T, H, W, C).
      label_smoothing: in training only, never in the evaluation loss.
    """

    model: QSDTransformer
    image_shape: tuple[int, ...]
    label_smoothing: float = 0.0
    best_metric: str = "eval/top1"

    def init(self, key: jax.Array) -> Variables:
        """Variables of the model, drawn with `key`."""
        images = jnp.zeros((1, *self.image_shape), self.model.dtype)
        return dict(self.model.init(key, images))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean cross-entropy of a batch {"image": (B, ...), "label": (B,) or (B, K)}."""
        logits, updates = self.model.apply(
            variables, batch["image"], train=True, rngs={"drop_path": key}, mutable=["batch_stats"]
        )
        loss = jnp.mean(cross_entropy(logits, batch["label"], self.label_smoothing))
        return loss, (updates["batch_stats"], {"loss": loss})

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Sums of a batch {"image", "label", "mask"}; rows with mask 0 are padding."""
        logits = cast(jax.Array, self.model.apply(variables, batch["image"]))
        return accuracy_sums(logits, batch["label"], batch["mask"])

    def summarize(self, sums) -> dict[str, float]:
        """Top-1, top-5 in percent, and the mean loss."""
        return summarize(sums)
