"""Data sets in COCO's format, small, in files that a test makes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.prepare.files import encoded, write_files

HEIGHT, WIDTH = 24, 36  # Of `encoded`.
CATEGORIES = ({"id": 7, "name": "dog"}, {"id": 3, "name": "cat"})  # Not in order, and with gaps.


def image(number: int, **fields: Any) -> dict[str, Any]:
    """An entry of an image."""
    entry = {"id": number, "file_name": f"{number:0>4}.jpg", "height": HEIGHT, "width": WIDTH}
    return {**entry, **fields}


def polygon(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """A segmentation of all of a box."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(
    number: int, image_id: int, box: tuple[float, ...] = (2, 3, 8, 6), **fields: Any
) -> dict[str, Any]:
    """An entry of an object, (x, y, width, height), whose mask is the box."""
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": 7,
        "bbox": list(box),
        "area": box[2] * box[3],
        "iscrowd": 0,
        "segmentation": polygon(*box),
    }
    return {**entry, **fields}


def without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


def code(mask: np.ndarray) -> dict[str, Any]:
    """The uncompressed run-length code of a mask, by a loop."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if bool(pixel) != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def content(images: list, annotations: list, categories: Any = CATEGORIES) -> dict[str, Any]:
    return {"images": images, "annotations": annotations, "categories": list(categories)}


def write_json(file: Path, value: Any) -> Path:
    write_files(file.parent, {file.name: json.dumps(value).encode()})
    return file


def coco(root: Path, train: int = 4, val: int = 3, year: str = "2017") -> None:
    """Images 10, 20, ... with 1, 2, ... objects in training; in evaluation 15, 25, ... with 0, 1, ..."""
    for split, number, first, least in (("train", train, 10, 1), ("val", val, 15, 0)):
        images, annotations = [], []
        for i in range(number):
            images.append(image(first + 10 * i))
            write_files(root / f"{split}{year}", {f"{first + 10 * i:04d}.jpg": encoded(first + i)})
            for j in range(i + least):
                box = (2.5 * j, 1.0 + j, 6.25, 9.5)
                category = CATEGORIES[j % 2]["id"]
                annotations.append(annotation(100 * i + j, images[-1]["id"], box, category_id=category))
        write_json(root / "annotations" / f"instances_{split}{year}.json", content(images[::-1], annotations))
