"""Images as they are given to a library or a command, and as a network sees them."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from qsdt_jax.data.geometry import Size
from qsdt_jax.data.images import DECODE_ERRORS, MODES, decode_reason, in_bytes, read_image
from qsdt_jax.data.preprocess import ImagePreprocessing
from qsdt_jax.data.sources import Example
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded

Picture = str | Path | Image.Image | np.ndarray


class Shown(NamedTuple):
    """An image on its way to a network.

    Attributes:
      name: of the image, for messages.
      size: (height, width) of the image as it came, in pixels.
      view: its row of a batch, in bytes, see `data.preprocess.ImagePreprocessing`.
      pixels: uint8 (height, width, C), the image as it came.
    """

    name: str
    size: Size
    view: Example
    pixels: np.ndarray


def shown(
    images: Picture | Iterable[Picture], preprocess: ImagePreprocessing, channels: int
) -> Iterator[Shown]:
    """Each of one image or of several; raises UserError as `show`, and where there is none."""
    one = isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
    try:
        several: list[Any] = [images] if one else list(images)  # pyright: ignore[reportArgumentType]
    except TypeError:
        found = type(images).__name__
        raise UserError(f"expected an image or several of them, found {found}") from None
    if not several:
        raise UserError("no images; expected at least one")
    for number, image in enumerate(several):
        yield show(image, preprocess, channels, f"image {number}")


def show(image: Picture, preprocess: ImagePreprocessing, channels: int, name: str) -> Shown:
    """An image as a network of so many channels sees it.

    Args:
      image: of any size.
      preprocess: of evaluation.
      channels: of the network.
      name: of an image that is no file; a file is called by its path.

    Raises:
      UserError: a file or an object that is no image, or one that the preprocessing has no place for.
    """
    if isinstance(image, str | Path):
        name = str(image)
    array = pixels(image, channels, name)
    height, width, _ = array.shape
    try:
        return Shown(name, (height, width), preprocess.view(array), array)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def pixels(image: Picture, channels: int, name: str) -> np.ndarray:
    """uint8 (H, W, channels) of an image; raises UserError where it is none."""
    if isinstance(image, str | Path):
        return read_image(expanded(str(image)), channels)
    if channels not in MODES:
        raise UserError(f"images have 1 or 3 channels, but the network takes {channels}")
    if isinstance(image, np.ndarray):
        shape = image.shape
        pixels_of_bytes = image.dtype == np.uint8 and len(shape) in (2, 3) and 0 not in shape
        if not pixels_of_bytes or (*shape, 1)[2] not in (1, 3, 4):
            raise UserError(
                f"{name}: expected a uint8 array (H, W, C) of 0..255, found {image.dtype} {shape}"
            )
        image = Image.fromarray(image[..., 0] if shape[2:] == (1,) else image)
    if not isinstance(image, Image.Image):
        raise UserError(f"{name}: expected a file, a Pillow image or an array, found {type(image).__name__}")
    if 0 in image.size:
        raise UserError(f"{name}: expected pixels, found an image of {image.width}x{image.height}")
    try:
        picture = np.asarray(in_bytes(image).convert(MODES[channels]))
    except DECODE_ERRORS as error:
        raise UserError(f"{name}: not a readable image ({decode_reason(error)})") from None
    return picture.reshape(*picture.shape[:2], channels)
