"""PNG files that `predict` writes, and names for them that take no other file's place."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from qsdt_jax.data.images import DECODE_ERRORS
from qsdt_jax.errors import UserError
from qsdt_jax.files import place

SOFTWARE = "Software", "qsdt_jax predict"  # Text in every picture, by which it is known again.


class Folder:
    """A folder of pictures, one for each image. Pictures of before are written over, and no other file.

    Args:
      path: of the folder, which is made where it is missing.
      others: files that no picture may take the place of.

    Raises:
      UserError: the folder cannot be made.
    """

    def __init__(self, path: Path, others: Sequence[str | Path]):
        self.path = path
        self._taken = {place(other) for other in others}
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path} cannot be made: {error.strerror}") from None

    def file_for(self, image: str) -> Path:
        """A file for the picture of an image, see `free_file`; no other picture gets it."""
        file = free_file(self.path, Path(image).stem, self._taken)
        self._taken.add(place(file))
        return file


def png(picture: Image.Image) -> bytes:
    """The content of a PNG file that is known again."""
    content, text = io.BytesIO(), PngInfo()
    text.add_text(*SOFTWARE)
    picture.save(content, "PNG", pnginfo=text)
    return content.getvalue()


def free_file(folder: Path, stem: str, taken: set[str]) -> Path:
    """STEM.png, or the first of STEM_2.png, STEM_3.png, ... that may be written.

    Its `place` is not taken, and no file lies there but a picture of before.
    """
    file, number = folder / f"{stem}.png", 1
    while place(file) in taken or (os.path.lexists(file) and not _is_ours(file)):
        number += 1
        file = folder / f"{stem}_{number}.png"
    return file


def _is_ours(file: Path) -> bool:
    """Whether a file was written by `predict`."""
    name, value = SOFTWARE
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            return picture.info.get(name) == value
    except DECODE_ERRORS:
        return False
