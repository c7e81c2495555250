"""Reading image files and turning pixels into network inputs."""

from pathlib import Path

import numpy as np
from PIL import Image

from qsdt_jax.errors import UserError

MODES = {1: "L", 3: "RGB"}


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Decodes an image file of any colour model into uint8 (H, W, channels).

    Raises:
      UserError: the file is missing, truncated or no image, or `channels` is neither 1 nor 3.
    """
    if channels not in MODES:
        raise UserError(f"image files give 1 or 3 channels, but the network takes {channels}")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(_in_bytes(image).convert(MODES[channels]))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({error})") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def _in_bytes(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel; Pillow's own conversion of deeper ones makes all above 255 white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels, of which none is known to be white")
    return image


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
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
