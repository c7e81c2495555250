"""Images with their objects as COCO has them, whichever files they come from.

Boxes in examples are (x0, y0, x1, y1) in pixels, continuous: the pixel in column j covers j..j + 1. Those of
COCO are (x, y, width, height).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qsdt_jax.data.dense.coco_masks import Mask, as_segmentation, bitmaps
from qsdt_jax.data.geometry import Size

SMALLEST_SIDE = 1.0  # Pixels of a box that can be learnt.


class Category(NamedTuple):
    """Its number in the file, and its name."""

    id: int
    name: str


class Instance(NamedTuple):
    """An object of an image.

    Attributes:
      id: its number in the file.
      category: place of its category among all, 0..K-1.
      bbox: (x, y, width, height) in pixels as written; it may reach beyond the image.
      area: in pixels, by which COCO tells small objects from large ones.
      crowd: many objects in one mask, which are scored otherwise and not learnt.
      mask: of the object.
    """

    id: int
    category: int
    bbox: tuple[float, float, float, float]
    area: float
    crowd: bool
    mask: Mask


class ListedImage(NamedTuple):
    """An image of a file: its number, the name of its file, (height, width) in pixels and its objects."""

    id: int
    file_name: str
    size: Size
    instances: tuple[Instance, ...]

    @property
    def usable(self) -> list[Instance]:
        """The objects that can be learnt: no crowds, and none whose box is smaller than a pixel."""
        return [one for one in self.instances if not one.crowd and one.area > 0 and self._is_large(one)]

    def objects(self) -> dict[str, np.ndarray]:
        """ "boxes" float32 (N, 4), "category" int32 (N,) and "masks" bool (N, H, W) of the usable ones."""
        usable = self.usable
        boxes = [inside(one.bbox, self.size) for one in usable]
        return {
            "boxes": np.array(boxes, np.float32).reshape(-1, 4),
            "category": np.array([one.category for one in usable], np.int32),
            "masks": bitmaps([one.mask for one in usable], self.size),
        }

    def _is_large(self, instance: Instance) -> bool:
        x0, y0, x1, y1 = inside(instance.bbox, self.size)
        return x1 - x0 >= SMALLEST_SIDE and y1 - y0 >= SMALLEST_SIDE


def inside(bbox: Sequence[float], size: Size) -> tuple[float, float, float, float]:
    """The part (x0, y0, x1, y1) of a box (x, y, width, height) that lies in an image of a size."""
    x, y, width, height = bbox
    bottom, right = size
    x0, x1 = (min(max(side, 0.0), float(right)) for side in (x, x + width))
    y0, y1 = (min(max(side, 0.0), float(bottom)) for side in (y, y + height))
    return x0, y0, x1, y1


def as_dataset(images: Sequence[ListedImage], categories: Sequence[Category]) -> dict[str, Any]:
    """What COCO's files say of images, in the same order, as the official evaluation takes it."""
    return {
        "images": [
            {"id": image.id, "file_name": image.file_name, "height": image.size[0], "width": image.size[1]}
            for image in images
        ],
        "annotations": [
            {
                "id": one.id,
                "image_id": image.id,
                "category_id": categories[one.category].id,
                "bbox": list(one.bbox),
                "area": one.area,
                "iscrowd": int(one.crowd),
                "segmentation": as_segmentation(one.mask, image.size),
            }
            for image in images
            for one in image.instances
        ],
        "categories": [{"id": category.id, "name": category.name} for category in categories],
    }
