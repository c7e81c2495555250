"""What `predict` shows of a segmenter: shares of the classes, class maps as PNG files, and a sheet."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from qsdt_jax.files import write_atomically
from qsdt_jax.progress import tell
from qsdt_jax.sheets.legend import LEGEND_COLUMN, draw_legend, legend_height, palette
from qsdt_jax.sheets.sheet import FAINT, GAP, HEADER, LINE, MARGIN, MOST_IMAGES, Sheet, percent
from qsdt_jax.sheets.written import Folder, png

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.answers.maps import ClassMap

LARGEST_DRAWN = 512  # Pixels along a side; larger images are drawn scaled down.
# Side of a picture in inches, by the number of images up to which it has it.
SIDES = ((1, 4.0), (4, 3.0), (12, 2.2), (MOST_IMAGES, 1.6))
COLOR_SHARE = 0.7  # Of an overlay, against the image below it.


class Drawn(NamedTuple):
    """An image of the sheet.

    Attributes:
      name: of the image.
      image: uint8 (h, w, 3), scaled down where it is large.
      classes: (h, w), of each of its pixels.
    """

    name: str
    image: np.ndarray
    classes: np.ndarray


class MapsShown:
    """Class maps on their way to the reader.

    Args:
      title: of the network.
      class_names: K names.
      top: classes told of each image.
      folder: gets the class maps; made where it is missing. Class maps of before are written over, and no
        other file.
      sheet, images: files that no class map may take the place of.

    Raises:
      UserError: the folder cannot be made.
    """

    def __init__(
        self, title: str, class_names: Sequence[str], top: int, folder: Path, sheet: Path,
        images: Sequence[str],
    ):  # fmt: skip
        self.title, self.class_names, self.top = title, class_names, top
        self.folder = Folder(folder, (sheet, *images))
        self.colors = palette(len(class_names))
        self.drawn: list[Drawn] = []
        self.total = np.zeros(len(class_names))

    def add(self, answer: "ClassMap") -> str:
        """Writes a class map; what is told of the image: its classes by their shares of the pixels."""
        stem = Path(answer.name).stem
        file = self.folder.file_for(answer.name)
        write_atomically(file, index_png(answer.classes, self.colors))
        if file.stem != stem:
            tell(f"{answer.name}: its class map is {file.name}, for {stem}.png is another file")
        if len(self.drawn) < MOST_IMAGES:
            self.drawn.append(_drawn(answer))
            self.total += answer.shares
        order = np.argsort(-answer.shares, kind="stable")[: self.top]
        present = [k for k in order if answer.shares[k] > 0]
        return ", ".join(f"{self.class_names[k]} {100 * answer.shares[k]:.2f} %" for k in present)

    def draw(self, file: Path) -> None:
        """Writes the sheet as a PNG file; raises UserError where that fails."""
        tell(f"class maps: {self.folder.path}, a PNG file each, whose values are class indices")
        shares = self.total / len(self.drawn)
        draw_sheet(file, self.drawn, shares, self.class_names, self.colors, self.title)


def index_png(classes: np.ndarray, colors: np.ndarray) -> bytes:
    """A PNG file whose values are class indices: uint8 with a palette, uint16 (H, W) as 16-bit grey."""
    picture = Image.fromarray(classes)
    if classes.dtype == np.uint8:
        picture.putpalette(colors.tobytes())
    return png(picture)


def overlay(image: np.ndarray, classes: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3), the image under the colours of its classes, with lines between them."""
    grey = image.mean(-1, keepdims=True)
    mixed = COLOR_SHARE * colors[classes] + (1 - COLOR_SHARE) * grey
    border = np.zeros(classes.shape, bool)
    border[:-1] |= classes[:-1] != classes[1:]
    border[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    mixed[border] *= 0.45
    return np.round(mixed).astype(np.uint8)


def _drawn(answer: "ClassMap") -> Drawn:
    """An image at the size of its view, or scaled down."""
    height, width = answer.view.shape[:2]
    ratio = min(1.0, LARGEST_DRAWN / max(height, width))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    image = Image.fromarray(answer.view.squeeze(-1) if answer.view.shape[-1] == 1 else answer.view)
    image = image.convert("RGB").resize(size, Image.Resampling.BOX if ratio < 1 else None)
    classes = Image.fromarray(answer.classes).resize(size, Image.Resampling.NEAREST)
    return Drawn(Path(answer.name).name, np.asarray(image), np.asarray(classes))


def draw_sheet(
    file: Path, images: Sequence[Drawn], shares: np.ndarray, class_names: Sequence[str], colors: np.ndarray,
    title: str,
) -> None:  # fmt: skip
    """Draws a legend of the classes that occur, and each image beside its overlay, as a PNG file.

    Args:
      file: of the sheet.
      images: at most as many as a sheet has.
      shares: (K,) of each class of the images' pixels.
      class_names, colors: K each.
      title: of the network.

    Raises:
      UserError: the file cannot be written.
    """
    side = next(side for most, side in SIDES if len(images) <= most)
    sizes = [_fitted(image.image.shape, side) for image in images]
    wide = max(width for width, _ in sizes)
    cell = max(2 * wide + GAP / 4, 1.2)
    columns = min(len(images), math.ceil(math.sqrt(len(images) * _mean_height(sizes) / cell)))
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    heights = [max(sizes[i][1] for i in row) for row in rows]
    across = 2 * MARGIN + max(columns * (cell + GAP) - GAP, 2 * LEGEND_COLUMN)
    present = [k for k in np.argsort(-shares, kind="stable") if shares[k] > 0]
    legend = legend_height(across, len(present))
    down = 2 * MARGIN + HEADER + legend + sum(heights) + len(rows) * (1.2 * LINE + GAP) - GAP

    sheet = Sheet(across, down, title)
    y = MARGIN + HEADER
    draw_legend(sheet, y, [(class_names[int(k)], colors[k], percent(float(shares[k]))) for k in present])
    y += legend
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x, (wide, tall) = MARGIN + column * (cell + GAP), sizes[i]
            painted = overlay(images[i].image, images[i].classes, colors)
            sheet.picture(images[i].image, x, y, wide, tall)
            sheet.picture(painted, x + wide + GAP / 4, y, wide, tall)
            sheet.write(x, y + tall + 0.6 * LINE, images[i].name, cell, size=6.5, color=FAINT, tail=True)
        y += height + 1.2 * LINE + GAP
    sheet.save(file)


def _fitted(shape: Sequence[int], side: float) -> tuple[float, float]:
    """(width, height) in inches of an image whose longer side is `side`."""
    height, width = shape[:2]
    return side * width / max(height, width), side * height / max(height, width)


def _mean_height(sizes: Sequence[tuple[float, float]]) -> float:
    return sum(height for _, height in sizes) / len(sizes) + 1.2 * LINE + GAP
