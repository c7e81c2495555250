"""A small split with objects, and what a network would have to find in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

NAMES = ("disc", "box", "none")
IDS = (2, 5, 9)  # With gaps, as COCO's.
SIZES = ((40, 60), (30, 30), (25, 50), (64, 48), (33, 71))  # Height and width of each image.
SLOTS = 4
BUCKET = (64, 72)
# Image, category, box (x, y, width, height), whether it is a crowd.
OBJECTS = (
    (0, 0, (4.0, 6.0, 20.0, 16.0), 0),
    (0, 1, (30.2, 2.0, 22.1, 30.0), 0),
    (1, 1, (0.0, 0.0, 30.0, 30.0), 0),
    (3, 0, (10.0, 12.0, 33.0, 40.0), 0),
    (3, 0, (2.0, 50.0, 9.0, 11.0), 0),
    (3, 1, (20.0, 2.0, 18.0, 9.0), 1),
    (4, 0, (40.0, 5.0, 25.0, 25.0), 0),
)


def truth_of() -> dict[str, Any]:
    """As COCO writes it: objects that fill their boxes; ids are no places."""
    return {
        "images": [
            {"id": 100 - 7 * i, "file_name": f"{i}.png", "height": h, "width": w}
            for i, (h, w) in enumerate(SIZES)
        ],
        "categories": [{"id": i, "name": name} for i, name in zip(IDS, NAMES, strict=True)],
        "annotations": [
            {
                "id": i,
                "image_id": 100 - 7 * image,
                "category_id": IDS[category],
                "bbox": list(bbox),
                "area": bbox[2] * bbox[3],
                "iscrowd": crowd,
                "segmentation": _outline(*bbox),
            }
            for i, (image, category, bbox, crowd) in enumerate(OBJECTS)
        ],
    }


def _outline(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def shown_size(index: int) -> tuple[int, int]:
    """How large an image is shown in its array: scaled by about 0.9, each side rounded."""
    height, width = SIZES[index]
    return round(0.9 * height), round(0.9 * width)


def detections_of(
    indices: Sequence[int], perturbed: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs of a network that finds all objects, or `perturbed` misses them a little; and the batch."""
    count = len(indices)
    outputs = {
        "boxes": np.zeros((count, SLOTS, 4), np.float32),
        "score": np.zeros((count, SLOTS), np.float32),
        "category": np.full((count, SLOTS), -1, np.int32),
        "mask": np.zeros((count, SLOTS, 28, 28), np.float32),
    }
    for row, index in enumerate(indices):
        found = [(place, one) for place, one in enumerate(OBJECTS) if one[0] == index and not one[3]]
        for slot, (place, (_, category, (x, y, width, height), _)) in enumerate(found):
            factors = np.divide(shown_size(index), SIZES[index])[::-1]
            box = np.array([x, y, x + width, y + height]) * np.tile(factors, 2)
            outputs["boxes"][row, slot] = box + (0.6 * place if perturbed else 0)
            outputs["score"][row, slot] = 0.9 - 0.1 * (place % 3)
            outputs["category"][row, slot] = category
            outputs["mask"][row, slot] = 1
            if perturbed:
                outputs["mask"][row, slot, :4] = 0
    batch = {
        "size": np.array([shown_size(index) for index in indices], np.int32),
        "own_size": np.array([SIZES[index] for index in indices], np.int32),
        "index": np.array(indices, np.int32),
    }
    return outputs, batch
