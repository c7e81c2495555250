"""Exact scores of a detection: every object of every image at the image's own size, by pycocotools."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.coco import Result, Scores, Truth, result, scores
from qsdt_jax.evaluate.split import Scored
from qsdt_jax.metric import Metric


class AveragePrecision:
    """Scores of a detector: a `tasks.task.Scorer` of detections in the pixels of the array shown.

    COCO's mean over IoU 0.5, 0.55 ... 0.95 and categories, and at 0.5 alone, of boxes and of masks.
    """

    metrics = (
        Metric("bbox_map", "box mAP", "%"),
        Metric("segm_map", "mask mAP", "%"),
        Metric("bbox_map50", "box mAP50", "%"),
        Metric("segm_map50", "mask mAP50", "%"),
    )

    def score(self, outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> Scored:
        """The detections of each image in its own pixels, with its place in the source as "index".

        Args:
          outputs: {"boxes": (B, D, 4), "score": (B, D), "category": int32 (B, D), -1 for none,
            "mask": (B, D, m, n)}.
          batch: {"size": (B, 2) of the images as the network saw them, "own_size": (B, 2) of the images as
            they came, "index": (B,)}.
        """
        boxes = own_boxes(outputs["boxes"], batch["size"], batch["own_size"])
        found = {"score": outputs["score"], "category": outputs["category"], "masks": outputs["mask"]}
        return Scored(rows={"boxes": boxes, **found, "index": batch["index"]})

    def summarize(self, total: Scored, truth: Any) -> dict[str, float]:
        """mAP and mAP50 of boxes and masks in percent.

        Args:
          total: rows of the images that count, all of the split or some.
          truth: COCO's data set, see `evaluate.coco.Truth`.

        Raises:
          UserError: there is no truth, or these images have no object.
        """
        boxes, masks = _scores(total, truth)
        return {
            "bbox_map": 100 * boxes.numbers["AP"],
            "segm_map": 100 * masks.numbers["AP"],
            "bbox_map50": 100 * boxes.numbers["AP50"],
            "segm_map50": 100 * masks.numbers["AP50"],
        }


def own_boxes(boxes: jax.Array, size: jax.Array, own_size: jax.Array) -> jax.Array:
    """Boxes in the pixels of an array -> in those of the image as it came, clipped to the image before that.

    Args:
      boxes: (B, D, 4) x0, y0, x1, y1.
      size: (B, 2) height and width of the image in the array.
      own_size: (B, 2) those of the image as it came.

    Returns:
      float32 (B, D, 4).
    """
    sides = jnp.tile(size[:, ::-1], 2)[:, None].astype(jnp.float32)
    own_sides = jnp.tile(own_size[:, ::-1], 2)[:, None].astype(jnp.float32)
    return jnp.clip(boxes.astype(jnp.float32), 0, sides) / (sides / own_sides)


def by_class(total: Scored, truth: Any) -> dict[str, np.ndarray]:
    """(K,) average precisions in percent, NaN for a category without objects; arguments as of `summarize`."""
    boxes, masks = _scores(total, truth)
    return {
        "box AP (%)": 100 * boxes.ap,
        "box AP50 (%)": 100 * boxes.ap50,
        "mask AP (%)": 100 * masks.ap,
        "mask AP50 (%)": 100 * masks.ap50,
    }


def results(total: Scored, truth: Any) -> list[Result]:
    """All detections in COCO's format; arguments as of `summarize`."""
    return list(_results(total, _given(truth)))


def _results(total: Scored, truth: Truth) -> Iterator[Result]:
    rows = total.rows
    for row, index in enumerate(rows["index"].tolist()):
        for place in np.flatnonzero(rows["category"][row] >= 0):
            yield result(
                truth.image_ids[index],
                truth.category_ids[rows["category"][row, place]],
                rows["boxes"][row, place],
                rows["score"][row, place],
                rows["masks"][row, place],
                truth.sizes[index],
            )


def _given(truth: Any) -> Truth:
    if truth is None:
        raise UserError(
            "the source of this split has no `truth`, the annotations that detections are scored by"
        )
    return Truth(truth)


def _scores(total: Scored, truth: Any) -> tuple[Scores, Scores]:
    """Those of boxes and of masks."""
    truth = _given(truth)
    images = [truth.image_ids[index] for index in total.rows["index"].tolist()]
    if len(set(images)) < len(images):
        raise ValueError("an image is scored twice")
    found = list(_results(total, truth))
    return scores(truth, found, "bbox", images), scores(truth, found, "segm", images)
