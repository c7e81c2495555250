"""Index images, as annotations are stored: one number a pixel, and what it means.

In an example an annotation (see `dense.annotations`) is uint8, or uint16 where the numbers of the classes
need it.
"""

import dataclasses
import io
import struct

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from qsdt_jax.data.dense.annotations import annotation_dtype, ignored
from qsdt_jax.data.images import DECODE_ERRORS, decode_reason
from qsdt_jax.errors import CorruptRecord

# Tried by Pillow. What is lossy, as JPEG, would give numbers that nobody has written.
FORMATS = ("PNG", "BMP", "TIFF", "PPM")
ANNOTATION_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm")
# The numbers of a palette image are its indices.
INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
UNSCALED = (255, 65535)  # Largest numbers of PGMs that Pillow gives as they are.
TIFF_BITS, TIFF_MEANING = 258, 262  # Tags BitsPerSample and PhotometricInterpretation.
WHITE_IS_0 = 0  # Of the latter.
PNG_DEPTH = 24  # Offset of the bits a channel in a PNG; the byte behind it is 0 for grey.


@dataclasses.dataclass(frozen=True)
class Numbering:
    """What the numbers in index images mean.

    A pixel of 255 is ignored where no class has that number, and one of 65535 always.

    Attributes:
      classes: K.
      reduce_zero_label: number k is class k - 1, and a pixel of 0 is ignored; else number k is class k.
    """

    classes: int
    reduce_zero_label: bool = False

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Of annotations in examples."""
        return annotation_dtype(self.classes)

    def decode(self, encoded: bytes, size: tuple[int, int], name: str) -> np.ndarray:
        """The annotation (H, W) in an index image.

        Args:
          encoded: content of the file.
          size: (height, width) of the image that it belongs to.
          name: of the annotation, for messages.

        Raises:
          CorruptRecord: no readable index image, one of another size, or a number that no class has.
        """
        indices = read_indices(encoded, name)
        if indices.shape != size:
            raise CorruptRecord(
                f"{name}: the annotation is {shown(indices.shape)}; expected {shown(size)} as its image"
            )
        first = int(self.reduce_zero_label)
        last = first + self.classes - 1
        nothing = indices == ignored(np.uint16)
        if last < ignored(np.uint8):
            nothing |= indices == ignored(np.uint8)
        wrong = ~nothing & ((indices < 0) | (indices > last))
        if wrong.any():
            raise CorruptRecord(f"{name}: holds the index {indices[wrong][0]}; expected 0..{last}")
        nothing |= indices < first
        return np.where(nothing, ignored(self.dtype), indices - first).astype(self.dtype)


def read_indices(encoded: bytes, name: str) -> np.ndarray:
    """The numbers in an index image, int32 (H, W).

    Raises:
      CorruptRecord: truncated or no image, one of colours, or one whose numbers Pillow scales or inverts.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.mode not in INDEX_MODES:
                raise CorruptRecord(
                    f"{name}: an annotation in colours ({image.mode}); expected one number a pixel, in grey "
                    "or with a palette"
                )
            if _is_changed(image):
                raise CorruptRecord(
                    f"{name}: grey levels that are scaled or inverted; expected the numbers themselves, of "
                    "8 or 16 bits"
                )
            indices = np.asarray(image).astype(np.int32)
            # Pillow spreads grey PNGs of 2 and 4 bits over 0..255; of 1 bit it gives 0 and 1.
            if image.format == "PNG" and image.mode == "L":
                depth, colour = struct.unpack_from("BB", encoded, PNG_DEPTH)
                if colour == 0 and depth < 8:
                    indices //= 255 // (2**depth - 1)
            return indices
    except DECODE_ERRORS as error:
        raise CorruptRecord(f"{name}: not a readable annotation ({decode_reason(error)})") from None


def _is_changed(image: ImageFile) -> bool:
    """Whether Pillow scales or inverts what is written in a file that is no PNG."""
    if image.mode == "P":
        return False
    if image.format == "PPM":
        codec, _, _, arguments = image.tile[0]  # "raw": as they are, but for bits.
        largest = arguments[1] if isinstance(arguments, tuple) else None
        return image.mode == "1" or (codec != "raw" and largest not in UNSCALED)
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(TIFF_BITS, (1,))[0]
        return 1 < bits < 8 or image.tag_v2.get(TIFF_MEANING) == WHITE_IS_0
    return False


def encode(annotation: np.ndarray) -> bytes:
    """A PNG of an annotation as examples have it, whose numbers are the same."""
    png = io.BytesIO()
    Image.fromarray(annotation).save(png, "PNG")
    return png.getvalue()


def shown(size: tuple[int, ...]) -> str:
    """(height, width) in pixels, in a message."""
    return f"{size[0]}x{size[1]}"
