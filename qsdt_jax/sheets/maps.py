"""What `predict` shows of a segmenter: shares of the classes, class maps as PNG files, and a sheet."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from qsdt_jax.data.images import DECODE_ERRORS
from qsdt_jax.errors import UserError
from qsdt_jax.files import write_atomically
from qsdt_jax.progress import tell
from qsdt_jax.sheets.sheet import FAINT, GAP, HEADER, INK, LINE, MARGIN, MOST_IMAGES, Sheet, percent

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.assemble.answers.maps import ClassMap

SOFTWARE = "Software", "qsdt_jax predict"  # Text in every class map, by which it is known again.
LARGEST_DRAWN = 512  # Pixels along a side; larger images are drawn scaled down.
# Side of a picture in inches, by the number of images up to which it has it.
SIDES = ((1, 4.0), (4, 3.0), (12, 2.2), (MOST_IMAGES, 1.6))
LEGEND_COLUMN, LEGEND_LINE, SWATCH = 2.1, 0.2, 0.13
COLOR_SHARE = 0.7  # Of an overlay, against the image below it.
LIGHTNESS = np.array([0.299, 0.587, 0.114])  # Shares of red, green and blue (ITU-R BT.601).
FIRST_COLOR = np.array([64.0, 96.0, 160.0])


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
        self.title, self.class_names, self.top, self.folder = title, class_names, top, folder
        self.colors = palette(len(class_names))
        self.drawn: list[Drawn] = []
        self.total = np.zeros(len(class_names))
        self.taken = {place(path) for path in (sheet, *images)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}") from None

    def add(self, answer: "ClassMap") -> str:
        """Writes a class map; what is told of the image: its classes by their shares of the pixels."""
        stem = Path(answer.name).stem
        file = free_file(self.folder, stem, self.taken)
        self.taken.add(place(file))
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
        tell(f"class maps: {self.folder}, a PNG file each, whose values are class indices")
        shares = self.total / len(self.drawn)
        draw_sheet(file, self.drawn, shares, self.class_names, self.colors, self.title)


def palette(count: int) -> np.ndarray:
    """uint8 (count, 3), a colour for each class, that of a class being the same whatever their number.

    Each is the one that is farthest from those before it, of a grid of colours without the darkest and the
    lightest; where the grid ends it begins anew.
    """
    grid = np.stack(np.meshgrid(*[np.linspace(0, 255, 9)] * 3, indexing="ij"), -1).reshape(-1, 3)
    light = grid @ LIGHTNESS
    grid = grid[(light > 50) & (light < 215)]
    chosen = [int(np.argmin(_distance(grid, FIRST_COLOR)))]
    nearest = _distance(grid, grid[chosen[0]])
    while len(chosen) < min(count, len(grid)):
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, _distance(grid, grid[chosen[-1]]))
    return np.round(grid[np.resize(chosen, count)]).astype(np.uint8)


def _distance(colors: np.ndarray, color: np.ndarray) -> np.ndarray:
    """How different colours look from one, to a rough measure: eyes see green best and blue least."""
    return np.sqrt(((colors - color) ** 2) @ np.array([3.0, 4.0, 2.0]))


def index_png(classes: np.ndarray, colors: np.ndarray) -> bytes:
    """A PNG file whose values are class indices: uint8 with a palette, uint16 (H, W) as 16-bit grey."""
    picture, content, text = Image.fromarray(classes), io.BytesIO(), PngInfo()
    text.add_text(*SOFTWARE)
    if classes.dtype == np.uint8:
        picture.putpalette(colors.tobytes())
    picture.save(content, "PNG", pnginfo=text)
    return content.getvalue()


def place(path: str | Path) -> str:
    """What files have in common that overwrite each other, also where capitals do not count."""
    return str(Path(path).resolve()).casefold()


def free_file(folder: Path, stem: str, taken: set[str]) -> Path:
    """STEM.png, or the first of STEM_2.png, STEM_3.png, ... that may be written.

    Its `place` is not taken, and no file lies there but a class map.
    """
    file, number = folder / f"{stem}.png", 1
    while place(file) in taken or (os.path.lexists(file) and not _is_class_map(file)):
        number += 1
        file = folder / f"{stem}_{number}.png"
    return file


def _is_class_map(file: Path) -> bool:
    """Whether a file was written by `predict`."""
    name, value = SOFTWARE
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            return picture.info.get(name) == value
    except DECODE_ERRORS:
        return False


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
    legend_columns = max(1, int((across - 2 * MARGIN) / LEGEND_COLUMN))
    legend = math.ceil(len(present) / legend_columns) * LEGEND_LINE + GAP / 2
    down = 2 * MARGIN + HEADER + legend + sum(heights) + len(rows) * (1.2 * LINE + GAP) - GAP

    sheet = Sheet(across, down, title)
    y = MARGIN + HEADER
    _draw_legend(
        sheet, y, [(class_names[int(k)], colors[k], float(shares[k])) for k in present], legend_columns
    )
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


def _draw_legend(
    sheet: Sheet, top: float, entries: Sequence[tuple[str, np.ndarray, float]], columns: int
) -> None:
    """Name, colour and share of each class, in columns."""
    rows = math.ceil(len(entries) / columns)
    for i, (name, color, share) in enumerate(entries):
        column, row = divmod(i, rows)
        x, y = MARGIN + column * LEGEND_COLUMN, top + row * LEGEND_LINE
        sheet.box(x, y - SWATCH / 2, SWATCH, SWATCH, facecolor=color / 255, edgecolor=INK, linewidth=0.4)
        sheet.write(x + SWATCH + 0.07, y, name, LEGEND_COLUMN - SWATCH - 0.75, size=7.5, color=INK)
        right = x + LEGEND_COLUMN - 0.2
        sheet.write(right, y, percent(share), 0.5, size=6.5, color=FAINT, align="right")


def _fitted(shape: Sequence[int], side: float) -> tuple[float, float]:
    """(width, height) in inches of an image whose longer side is `side`."""
    height, width = shape[:2]
    return side * width / max(height, width), side * height / max(height, width)


def _mean_height(sizes: Sequence[tuple[float, float]]) -> float:
    return sum(height for _, height in sizes) / len(sizes) + 1.2 * LINE + GAP
