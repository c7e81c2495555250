"""Images with annotations in tfds directories that `prepare` made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsdt_jax.command import COMMAND
from qsdt_jax.data.images import decode_image
from qsdt_jax.data.index_images import Numbering
from qsdt_jax.data.prepare.metadata import SIZES_FILE
from qsdt_jax.data.sources import Example
from qsdt_jax.errors import UserError
from qsdt_jax.files import read_json


def is_annotation(feature: Any) -> bool:
    """Whether a feature of tfds is an annotation of ours: it knows the names of its classes."""
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.LabeledImage) and feature.num_classes is not None


def annotated(record: Mapping[str, Any], classes: int, channels: int, name: str) -> Example:
    """The example in a record whose images are not decoded.

    Raises:
      CorruptRecord: the image or the annotation is damaged, or they do not fit.
    """
    image = decode_image(record["image"], channels, name)
    annotation = Numbering(classes).decode(record["annotation"], image.shape[:2], name)
    return {"image": image, "annotation": annotation}


def sizes_of(directory: Path, split: str, length: int) -> Sequence[Sequence[int]]:
    """[height, width] of each image of a split.

    Raises:
      UserError: the file is missing or damaged.
    """
    file = directory / SIZES_FILE
    try:
        content = read_json(file)
    except FileNotFoundError:
        raise UserError(f"{file} is missing; prepare the data set again with `{COMMAND} prepare`") from None
    sizes: Any = content.get(split) if isinstance(content, dict) else None
    try:
        whole = np.asarray(sizes, np.int64).shape == (length, 2)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{file} is damaged; expected height and width of {length:,} images of {split}")
    return sizes
