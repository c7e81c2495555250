"""Images of any size in arrays: what is valid lies at the top left, the rest is padding."""

from typing import Any

import numpy as np
from PIL import Image

from qsdt_jax.data.geometry import Pad, Resize, Size, Steps, moved
from qsdt_jax.errors import UserError

SIZE = "size"  # Of an example: (height, width) of what is valid of its array.


def size_of_image(example: dict[str, Any]) -> Size:
    """(height, width) of the image of an example; raises UserError where that is not of bytes."""
    image = np.asarray(example["image"])
    if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        raise UserError(f"an image is {image.dtype} {image.shape}; expected uint8 (H, W, C)")
    height, width, _ = image.shape
    return height, width


def resized(before: Size, after: Size) -> Resize | Steps:
    """Bilinear with antialiasing; nothing for an image that has that size."""
    return Steps() if before == after else Resize(before, after, Image.Resampling.BILINEAR)


def padding(before: Size, size: Size) -> Pad:
    """At the bottom and on the right."""
    return Pad(bottom=size[0] - before[0], right=size[1] - before[1])


def padded(example: dict[str, Any], size: Size) -> dict[str, Any]:
    """The example at that size, and how much of it is valid, int32 (2,)."""
    before = size_of_image(example)
    return {**moved(example, padding(before, size)), SIZE: np.array(before, np.int32)}
