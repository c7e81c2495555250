"""Reading image files and turning pixels into network inputs."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from qsdt_jax.errors import CorruptRecord, UserError

MODES = {1: "L", 3: "RGB"}
# What Pillow raises on damaged files.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Decodes an image file of any colour model into uint8 (H, W, channels).

    Raises:
      CorruptRecord: the file is missing, truncated or no image.
      UserError: `channels` is neither 1 nor 3.
    """
    try:
        encoded = Path(path).read_bytes()
    except FileNotFoundError:
        raise CorruptRecord(f"{path}: no such image file") from None
    except OSError as error:
        raise CorruptRecord(f"{path}: cannot be read ({error.strerror})") from None
    return decode_image(encoded, channels, str(path))


def decode_image(encoded: bytes, channels: int, name: str) -> np.ndarray:
    """Decodes the bytes of an image file of any colour model into uint8 (H, W, channels), as Pillow does.

    An orientation noted in the file is left unheeded, as in the training of the published networks.

    Args:
      encoded: content of the file.
      channels: 1 for grey, 3 for RGB.
      name: of the image, for messages.

    Raises:
      CorruptRecord: truncated or no image.
      UserError: `channels` is neither 1 nor 3.
    """
    if channels not in MODES:
        raise UserError(f"image files give 1 or 3 channels, but the network takes {channels}")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.asarray(image.convert(MODES[channels]))
    except DECODE_ERRORS as error:
        raise CorruptRecord(f"{name}: not a readable image ({decode_reason(error)})") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def decode_reason(error: BaseException) -> str:
    """What was wrong with a file, in the words of one of `DECODE_ERRORS`."""
    # Pillow's own words name the object that holds the bytes, by its address.
    return "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)


def resize_and_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales the image (bicubic, antialiased) until it covers `size`, and cuts out the middle.

    Args:
      image: uint8 (H, W, C).
      size: (height, width) of the result.
    """
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    scaled = max(round(height * scale), size[0]), max(round(width * scale), size[1])
    if scaled != (height, width):
        image = resize(image, scaled)
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic resize with antialiasing of uint8 (H, W, C) to size (height, width)."""
    planes = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(planes).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(*size, image.shape[-1])


def normalize(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """float32 (image / 255 - mean) / std, per channel or with one value for all."""
    scaled = image.astype(np.float32) / 255
    return (scaled - np.float32(mean)) / np.float32(std)
