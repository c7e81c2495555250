"""COCO's scores of boxes and masks, and the results that other tools read, both by pycocotools.

It is imported where it is used: an installation without the extra `data` has none.

Masks are scored without their boxes. With them, pycocotools would tell small objects from large ones by the
area of the box (as mmdetection scores).
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from qsdt_jax.data.geometry import Size
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.paste import Part, covered_part

# Of pycocotools' `stats`, in its order.
NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
Of = Literal["bbox", "segm"]
Result = dict[str, Any]
"""A detection in COCO's format: "image_id", "category_id", "bbox" (x, y, width, height), "score", and as
"segmentation" its compressed run lengths."""


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """The annotations of a split.

    Attributes:
      dataset: as of COCO's `instances_*.json`: "images", whose order is that of the split's source,
        "categories" and "annotations", crowds among them. What has no "segmentation" covers its box.
    """

    dataset: Mapping[str, Any]

    @functools.cached_property
    def image_ids(self) -> tuple[Any, ...]:
        """The id of each image, in the order of the source."""
        return tuple(image["id"] for image in self.dataset["images"])

    @functools.cached_property
    def sizes(self) -> tuple[Size, ...]:
        """(height, width) of each image, in the order of the source."""
        return tuple((image["height"], image["width"]) for image in self.dataset["images"])

    @functools.cached_property
    def category_ids(self) -> tuple[Any, ...]:
        """The ids of the categories 0..K-1, which ascend."""
        return tuple(sorted(category["id"] for category in self.dataset["categories"]))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """COCO's numbers of a split, from 0 to 1; NaN where no object is.

    Attributes:
      numbers: the twelve, by the names of `NUMBERS`.
      ap: float64 (K,) average precision of each category, over IoU 0.5, 0.55 ... 0.95.
      ap50: float64 (K,) at IoU 0.5.
    """

    numbers: Mapping[str, float]
    ap: np.ndarray
    ap50: np.ndarray


def scores(truth: Truth, results: Sequence[Result], of: Of, images: Sequence[Any] | None = None) -> Scores:
    """Scores the results of a split.

    Args:
      truth: its annotations.
      results: all detections, in any order.
      of: "bbox" for boxes, "segm" for masks.
      images: ids of the images that count; all unless given.

    Raises:
      UserError: these images have no object.
    """
    from pycocotools.cocoeval import COCOeval

    images = truth.image_ids if images is None else images
    wanted = set(images)
    objects = [a for a in truth.dataset["annotations"] if a["image_id"] in wanted]
    if not any(not a.get("iscrowd", 0) for a in objects):
        raise UserError(f"none of the {len(wanted):,} images has an object to compare detections with")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints.
        found = [_scored(result, of) for result in results if result["image_id"] in wanted]
        evaluation = COCOeval(_indexed(truth, map(_object, objects)), _indexed(truth, found), of)
        evaluation.params.imgIds = list(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # By IoU, recall and category; of objects of any size, and of 100 detections an image.
    precision = evaluation.eval["precision"][..., 0, -1]
    stats = [float(number) if number > -1 else float("nan") for number in evaluation.stats]
    return Scores(
        numbers=dict(zip(NUMBERS, stats, strict=True)),
        ap=_mean_of_present(precision),
        ap50=_mean_of_present(precision[:1]),
    )


def result(image: Any, category: Any, box: np.ndarray, score: float, mask: np.ndarray, size: Size) -> Result:
    """A detection as COCO writes it.

    Args:
      image, category: their ids.
      box: (4,) x0, y0, x1, y1 in pixels of the image as it came.
      score: from 0 to 1.
      mask: (m, n) probabilities across the box.
      size: (height, width) of the image as it came.
    """
    x0, y0, x1, y1 = (float(side) for side in box)
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "score": float(score),
        "segmentation": run_lengths(covered_part(mask, box, size), size),
    }


def run_lengths(part: Part, size: Size) -> dict[str, Any]:
    """{"size": [H, W], "counts": text}, the compressed run lengths of an image of which a part is covered.

    They are counted in column-major order, from the part alone: most objects are far smaller than the image.
    """
    from pycocotools import mask

    height, width = size
    rows, columns = part.covered.shape
    padded = np.zeros((columns, rows + 2), np.int8)
    padded[:, 1:-1] = part.covered.T
    column, row = np.nonzero(np.diff(padded, axis=1))
    places, times = np.unique((part.left + column) * height + part.top + row, return_counts=True)
    # A run that ends at the lower edge goes on where one starts at the upper edge of the next column.
    places = places[(times == 1) & (places < height * width)]
    counts = np.diff(places, prepend=0, append=height * width)
    found: Any = mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": found["counts"].decode()}


def _object(annotation: Mapping[str, Any]) -> Result:
    """An annotation with all that pycocotools asks for."""
    x, y, width, height = annotation["bbox"]
    outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    return {
        **annotation,
        "segmentation": annotation.get("segmentation") or outline,
        "area": annotation.get("area", width * height),
        "iscrowd": annotation.get("iscrowd", 0),
    }


def _scored(result: Result, of: Of) -> Result:
    """A detection with the area by which pycocotools calls it small, medium or large."""
    if of == "bbox":
        area = result["bbox"][2] * result["bbox"][3]
    else:
        from pycocotools import mask

        area = float(mask.area(result["segmentation"]))
    return {**result, "area": area, "iscrowd": 0}


def _indexed(truth: Truth, annotations: Iterable[Result]) -> Any:
    """pycocotools' index of annotations, which are numbered from 1: it takes number 0 for no annotation."""
    from pycocotools.coco import COCO

    index: Any = COCO()
    index.dataset = {
        "images": list(truth.dataset["images"]),
        "categories": list(truth.dataset["categories"]),
        "annotations": [{**annotation, "id": i} for i, annotation in enumerate(annotations, start=1)],
    }
    index.createIndex()
    return index


def _mean_of_present(precision: np.ndarray) -> np.ndarray:
    """(..., K) -> (K,), over all that is not -1, as which pycocotools writes what has no object."""
    flat = precision.reshape(-1, precision.shape[-1])
    present = flat > -1
    with np.errstate(invalid="ignore"):
        return np.where(present, flat, 0).sum(0) / present.sum(0)
