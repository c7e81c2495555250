"""Exact scores of a segmentation: every pixel of every image at its own size, in one confusion matrix."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.class_map import class_map
from qsdt_jax.evaluate.iou import (
    accuracy,
    confusion_matrix,
    intersection_over_union,
    mean_of_present,
    pixel_accuracy,
)
from qsdt_jax.evaluate.split import Scored
from qsdt_jax.metric import Metric


class MeanIoU:
    """Scores of a segmenter: a `tasks.task.Scorer` of logits (B, H / 2, W / 2, K) at stride 2.

    Which classes count in the means is said in `evaluate.iou`.
    """

    metrics = (Metric("miou", "mIoU", "%"), Metric("macc", "mAcc", "%"), Metric("aacc", "aAcc", "%"))

    def score(self, outputs: jax.Array, batch: Mapping[str, jax.Array]) -> Scored:
        """The confusion matrix (K, K) of a batch.

        Args:
          outputs: logits.
          batch: {"annotation": (B, H', W'), "size": (B, 2) of the images that the network saw,
            "annotation_size": (B, 2) of the images as they came, or else they are of "size"; "mask": (B,)}.
        """
        annotations, classes = batch["annotation"], outputs.shape[-1]
        frame = annotations.shape[1], annotations.shape[2]
        originals = batch.get("annotation_size", batch["size"])

        def of_image(
            logits: jax.Array, annotation: jax.Array, size: jax.Array, original: jax.Array, mask: jax.Array
        ) -> jax.Array:
            found = class_map(logits, size, original, frame)
            inside = _within(frame, original) & (mask > 0)
            return confusion_matrix(annotation, found, inside, classes)

        # All images at once: in a loop over them, each device would score the images of all.
        found = jax.vmap(of_image)(outputs, annotations, batch["size"], originals, batch["mask"])
        return Scored(sums={"confusion": jnp.sum(found, axis=0)})

    def summarize(self, total: Scored, truth: Any) -> dict[str, float]:
        """mIoU, mAcc and aAcc in percent; `truth` plays no role.

        Raises:
          UserError: no pixel is labelled.
        """
        confusion = total.sums["confusion"]
        if not np.any(confusion):
            raise UserError("no pixel of the split is labelled")
        return {
            "miou": 100 * mean_of_present(intersection_over_union(confusion)),
            "macc": 100 * mean_of_present(accuracy(confusion)),
            "aacc": 100 * pixel_accuracy(confusion),
        }


def by_class(total: Scored, truth: Any) -> dict[str, np.ndarray]:
    """(K,) IoU and accuracy in percent, NaN where there is none, and labelled pixels, from added-up sums."""
    del truth
    confusion: Any = total.sums["confusion"]
    return {
        "IoU (%)": 100 * intersection_over_union(confusion),
        "accuracy (%)": 100 * accuracy(confusion),
        "pixels": confusion.sum(1),
    }


def _within(frame: tuple[int, int], size: jax.Array) -> jax.Array:
    """Whether a pixel of the frame lies in an image of a size; bool of the frame's shape."""
    return (jnp.arange(frame[0])[:, None] < size[0]) & (jnp.arange(frame[1]) < size[1])
