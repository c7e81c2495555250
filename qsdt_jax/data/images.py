"""Reading image files and turning pixels into network inputs."""

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.retry import reason, retried

# Tried by Pillow; the others that it knows are drawings and documents, some with programs in them.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# Files of these formats are called so, whatever the capitals. Floats (.pfm) and animations (.apng) are not
# asked for.
IMAGE_SUFFIXES = (
    *(".jpeg", ".jpg", ".jpe", ".jfif"),
    *(".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
MODES = {1: "L", 3: "RGB"}
# What Pillow raises on damaged files.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Decodes an image file of any colour model into uint8 (H, W, channels).

    Raises:
      CorruptRecord: the bytes of the file are no image, or not all of one.
      UserError: the file is missing, or its bytes cannot be read, also not after a while (see `retried`);
        `channels` is neither 1 nor 3.
    """
    try:
        encoded = retried(Path(path).read_bytes, path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None
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
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            image.load()
            picture = in_bytes(image)
            if picture.mode != MODES[channels]:  # A conversion to the same mode is a copy, 6 % of the time.
                picture = picture.convert(MODES[channels])
            pixels = np.asarray(picture)
    except DECODE_ERRORS as error:
        raise CorruptRecord(f"{name}: not a readable image ({decode_reason(error)})") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def image_size(file: str | Path | bytes, name: str) -> tuple[int, int]:
    """(height, width) of an image file in pixels, from its beginning.

    Args:
      file: its place, or its content.
      name: of the image, for messages.

    Raises:
      CorruptRecord: no image.
      UserError: the file is missing, or its bytes cannot be read, also not after a while (see `retried`).
    """

    def read() -> tuple[int, int]:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            return image.height, image.width

    try:
        return retried(read, name)
    except FileNotFoundError:
        raise UserError(f"{name}: no such image file") from None
    except DECODE_ERRORS as error:
        raise CorruptRecord(f"{name}: not a readable image ({decode_reason(error)})") from None


def in_bytes(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel; Pillow's own conversion of deeper ones makes all above 255 white.

    Raises:
      ValueError: 32 bits a channel.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels, of which none is known to be white")
    return image


def decode_reason(error: BaseException) -> str:
    """What was wrong with a file, in the words of one of `DECODE_ERRORS`."""
    # Pillow's own words name the object that holds the bytes, by its address.
    return "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)


def resize(
    image: np.ndarray,
    size: tuple[int, int],
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
    part: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resize with antialiasing of uint8 (H, W, C), or of a part (x0, y0, x1, y1), to size (height, width)."""
    return to_pixels(to_picture(image).resize((size[1], size[0]), resampling, part))


def to_picture(image: np.ndarray) -> Image.Image:
    """uint8 (H, W, C) with C 1 or 3 as a Pillow image, grey or RGB."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def to_pixels(picture: Image.Image) -> np.ndarray:
    """The uint8 (H, W, C) of a Pillow image."""
    return np.asarray(picture).reshape(picture.height, picture.width, -1)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How pixels become inputs, (pixel / 255 - mean) / std, one value a channel or one for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def table(self, channels: int) -> np.ndarray:
        """float32 (256, channels), the input that each byte becomes, as `normalize` has it."""
        every = np.arange(256, dtype=np.uint8)[:, None, None]
        return normalize(np.broadcast_to(every, (256, 1, channels)), self.mean, self.std)[:, 0]


def normalize(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """float32 (image / 255 - mean) / std, per channel or with one value for all."""
    width, channels = image.shape[1:]
    # By whole rows: NumPy is ten times slower along an innermost axis of length 3.
    rows = image.reshape(-1, width * channels).astype(np.float32)
    rows /= 255
    rows -= np.tile(np.broadcast_to(np.asarray(mean, np.float32), channels), width)
    rows /= np.tile(np.broadcast_to(np.asarray(std, np.float32), channels), width)
    return rows.reshape(image.shape)
