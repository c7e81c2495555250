"""Exact accuracy over a split whose last batch is padded."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.evaluate.split import Scored
from qsdt_jax.losses.classification import cross_entropy
from qsdt_jax.metric import Metric


def accuracy_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Counts of one batch, to be added up over the split.

    A class counts as predicted at rank r if r other classes score higher, or equal with a lower index. Where
    either score is no number, the other class counts as higher.

    Args:
      logits: (B, K); labels: (B,); mask: (B,) 1 for images, 0 for padding.

    Returns:
      "images", "top1", "top5" as int32 counts and "loss" as a sum.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1])[None, :] < labels[:, None]
    # By what scores lower, because comparisons with NaN are false: a network of NaNs is never right.
    rank = jnp.sum(~((logits < own) | ((logits == own) & ~earlier)), axis=1)
    valid = mask > 0
    return {
        "images": jnp.sum(valid, dtype=jnp.int32),
        "top1": jnp.sum(valid & (rank < 1), dtype=jnp.int32),
        "top5": jnp.sum(valid & (rank < 5), dtype=jnp.int32),
        "loss": jnp.sum(jnp.where(valid, cross_entropy(logits, labels), 0)),
    }


def summarize(sums: Mapping[str, Any]) -> dict[str, float]:
    """Top-1 and top-5 in percent and the mean loss in nats, from added-up `accuracy_sums`."""
    images = float(sums["images"])
    return {
        "top1": 100 * float(sums["top1"]) / images,
        "top5": 100 * float(sums["top5"]) / images,
        "loss": float(sums["loss"]) / images,
    }


class Accuracy:
    """Scores of a classifier: a `tasks.task.Scorer` of logits (B, K), "label" and "mask"."""

    metrics = (
        Metric("top1", "top-1", "%"),
        Metric("top5", "top-5", "%"),
        Metric("loss", "loss", "nats", larger_is_better=False),
    )

    def score(self, outputs: jax.Array, batch: Mapping[str, jax.Array]) -> Scored:
        """Counts of the right classes, as `accuracy_sums`."""
        return Scored(sums=accuracy_sums(outputs, batch["label"], batch["mask"]))

    def summarize(self, total: Scored, truth: Any) -> dict[str, float]:
        """Top-1, top-5 in percent, and the mean loss; `truth` plays no role."""
        return summarize(total.sums)
