"""Images with objects in tfds directories that `prepare` made.

Besides tfds' own features of COCO there are masks, "segmentation", and the numbers as they were written, for
tfds keeps boxes as shares of the image in 32 bits and areas as whole numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsdt_jax.data.dense.coco_masks import UnusableMask, as_mask, encoded
from qsdt_jax.data.dense.instances import Category, Instance, ListedImage, inside
from qsdt_jax.data.geometry import Size
from qsdt_jax.data.prepare.metadata import CATEGORIES_FILE
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.files import read_json


def is_objects(feature: Any) -> bool:
    """Whether a feature of tfds has objects as ours: with categories and masks."""
    import tensorflow_datasets as tfds

    content: Any = getattr(feature, "feature", None)
    if not isinstance(content, tfds.features.FeaturesDict):
        return False
    known: dict[str, Any] = dict(content.items())
    return isinstance(known.get("label"), tfds.features.ClassLabel) and "segmentation" in known


def stored(image: ListedImage) -> dict[str, Any]:
    """What the features of an image hold besides its pixels."""
    import tensorflow_datasets as tfds

    height, width = image.size
    objects = []
    for one in image.instances:
        x0, y0, x1, y1 = inside(one.bbox, image.size)
        box = tfds.features.BBox(ymin=y0 / height, xmin=x0 / width, ymax=y1 / height, xmax=x1 / width)
        objects.append(
            {
                "id": one.id,
                "area": round(one.area),
                "bbox": box,
                "label": one.category,
                "is_crowd": one.crowd,
                "segmentation": encoded(one.mask, image.size).decode("ascii"),
            }
        )
    return {
        "image/filename": image.file_name,
        "image/id": image.id,
        "objects": objects,
        "written": {
            "bbox": np.array([one.bbox for one in image.instances], np.float64).reshape(-1),
            "area": np.array([one.area for one in image.instances], np.float64),
        },
    }


def listed(record: Mapping[str, Any], size: Size, classes: int, name: str) -> ListedImage:
    """The image of a record with its objects; raises CorruptRecord where they are none."""
    objects, written = record["objects"], record["written"]
    bbox, areas = written["bbox"].reshape(-1, 4).tolist(), written["area"].tolist()
    instances = []
    try:
        for place, (box, area) in enumerate(zip(bbox, areas, strict=True)):
            category = int(objects["label"][place])
            if not 0 <= category < classes:
                raise CorruptRecord(f"{name}: has the label {category}; expected 0..{classes - 1}")
            code = {"size": list(size), "counts": objects["segmentation"][place].decode("ascii", "replace")}
            instances.append(
                Instance(
                    int(objects["id"][place]),
                    category,
                    tuple(box),
                    area,
                    bool(objects["is_crowd"][place]),
                    as_mask(code, size),
                )
            )
    except (IndexError, ValueError, UnusableMask) as error:
        raise CorruptRecord(f"{name}: its objects are damaged ({error})") from None
    return ListedImage(int(record["image/id"]), record["image/filename"].decode(), size, tuple(instances))


def categories_of(directory: Path, names: Sequence[str]) -> tuple[Category, ...]:
    """The categories with their numbers in COCO's files; raises UserError where these are not there."""
    file = directory / CATEGORIES_FILE
    try:
        numbers: Any = read_json(file)
    except FileNotFoundError:
        numbers = None
    good = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    if not good or len(numbers) != len(names):
        raise UserError(f"{file} is missing or damaged; expected the numbers of {len(names)} categories")
    return tuple(map(Category, numbers, names))
