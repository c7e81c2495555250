"""What `predict` shows of a detector: its surest objects, a picture of each image, JSON, and a sheet."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qsdt_jax.evaluate.coco import Result, result
from qsdt_jax.files import write_atomically
from qsdt_jax.progress import tell
from qsdt_jax.sheets.legend import LEGEND_COLUMN, draw_legend, legend_height, palette
from qsdt_jax.sheets.painted import Found, painted, resized
from qsdt_jax.sheets.sheet import DOTS_PER_INCH, FAINT, GAP, HEADER, LINE, MARGIN, MOST_IMAGES, Sheet
from qsdt_jax.sheets.written import Folder, png

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.answers.objects import Objects

RESULTS_FILE = "detections.json"
SMALLEST_PICTURE, LARGEST_PICTURE = 640, 2048  # Pixels along the longer side of a picture.
# Side of a picture of the sheet in inches, by the number of images up to which it has it.
SIDES = ((1, 6.0), (4, 4.0), (12, 2.8), (MOST_IMAGES, 2.0))
SHARPNESS = 2  # Pixels of a picture of the sheet, for each of the sheet's along an axis.
TEXT_SHARE = 1 / 45  # Of a picture's longer side.
SHEET_TEXT = round(6.5 / 72 * SHARPNESS * DOTS_PER_INCH)  # Pixels of 6.5 points, as other small print.


class Drawn(NamedTuple):
    """An image of the sheet: its name, uint8 (h, w, 3), and the objects in its pixels."""

    name: str
    image: np.ndarray
    found: Found


class ObjectsShown:
    """Objects on their way to the reader.

    The JSON file has all of them in COCO's format: "image_id" counts the images from 1 on, beside its
    "file_name", and "category_id" the categories from 1 on.

    Args:
      title: of the network.
      class_names: K names.
      top: objects told of each image.
      least: score of an object that is told and painted.
      folder: gets a picture of each image and the JSON file; made where it is missing. What was written
        before is written over, and no other picture.
      sheet, images: files that no picture may take the place of.

    Raises:
      UserError: the folder cannot be made.
    """

    def __init__(
        self, title: str, class_names: Sequence[str], top: int, least: float, folder: Path, sheet: Path,
        images: Sequence[str],
    ):  # fmt: skip
        self.title, self.class_names, self.top, self.least = title, class_names, top, least
        self.folder = Folder(folder, (sheet, *images))
        self.colors = palette(len(class_names))
        self.results: list[Result] = []
        self.images = 0
        self.drawn: list[Drawn] = []

    def add(self, answer: "Objects") -> str:
        """Writes a picture; what is told of the image: the categories of its surest objects with scores."""
        self.images += 1
        self.results += [self._result(answer, i) for i in range(len(answer))]
        sure = answer.scores >= self.least
        found = Found(
            boxes=answer.boxes[sure],
            scores=answer.scores[sure],
            categories=answer.categories[sure],
            shapes=answer.shapes[sure],
        )
        file = self.folder.file_for(answer.name)
        scaled = resized(answer.image, found, SMALLEST_PICTURE, LARGEST_PICTURE)
        text_size = round(TEXT_SHARE * max(scaled[0].shape))
        write_atomically(file, png(painted(*scaled, self.class_names, self.colors, text_size)))
        if file.stem != (stem := Path(answer.name).stem):
            tell(f"{answer.name}: its picture is {file.name}, for {stem}.png is another file")
        if len(self.drawn) < MOST_IMAGES:
            side = round(SIDES[0][1] * DOTS_PER_INCH)
            self.drawn.append(Drawn(Path(answer.name).name, *resized(answer.image, found, 1, side)))
        told = [
            f"{self.class_names[category]} {100 * score:.2f} %"
            for category, score in zip(found.categories[: self.top], found.scores[: self.top], strict=True)
        ]
        more = len(found.scores) - len(told)
        return ", ".join(told + ([f"and {more} more"] if more else [])) or "no object"

    def _result(self, answer: "Objects", i: int) -> Result:
        category = int(answer.categories[i])
        size = answer.image.shape[0], answer.image.shape[1]
        found = result(self.images, category + 1, answer.boxes[i], answer.scores[i], answer.shapes[i], size)
        return {"file_name": answer.name, "category_name": self.class_names[category], **found}

    def draw(self, file: Path) -> None:
        """Writes the sheet as a PNG file, and the JSON file; raises UserError where that fails."""
        results = self.folder.path / RESULTS_FILE
        write_atomically(results, json.dumps(self.results) + "\n")
        tell(f"pictures: {self.folder.path}, with objects of at least {100 * self.least:g} %")
        tell(f"all {len(self.results)} objects in COCO's format: {results}")
        draw_sheet(file, self.drawn, self.class_names, self.colors, self.title)


def draw_sheet(
    file: Path, images: Sequence[Drawn], class_names: Sequence[str], colors: np.ndarray, title: str
) -> None:
    """Draws a legend of the categories that occur, and each image with its objects, as a PNG file.

    Args:
      file: of the sheet.
      images: at most as many as a sheet has.
      class_names, colors: K each.
      title: of the network.

    Raises:
      UserError: the file cannot be written.
    """
    side = next(side for most, side in SIDES if len(images) <= most)
    sizes = [_fitted(image.image.shape, side) for image in images]
    cell = max(max(width for width, _ in sizes), 1.2)
    tall = sum(height for _, height in sizes) / len(sizes) + 1.2 * LINE + GAP
    columns = min(len(images), math.ceil(math.sqrt(1.4 * len(images) * tall / cell)))
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    heights = [max(sizes[i][1] for i in row) for row in rows]
    across = 2 * MARGIN + max(columns * (cell + GAP) - GAP, 2 * LEGEND_COLUMN)
    categories = np.concatenate([image.found.categories for image in images])
    counts = np.bincount(categories, minlength=len(class_names))
    present = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k] > 0]
    legend = legend_height(across, len(present))
    down = 2 * MARGIN + HEADER + legend + sum(heights) + len(rows) * (1.2 * LINE + GAP) - GAP

    sheet = Sheet(across, down, title)
    y = MARGIN + HEADER
    draw_legend(sheet, y, [(class_names[k], colors[k], f"{counts[k]:,}") for k in present])
    y += legend
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x, (wide, tall) = MARGIN + column * (cell + GAP), sizes[i]
            pixels = round(SHARPNESS * side * DOTS_PER_INCH)
            scaled = resized(images[i].image, images[i].found, pixels, pixels)
            picture = painted(*scaled, class_names, colors, SHEET_TEXT)
            sheet.picture(np.asarray(picture), x, y, wide, tall)
            sheet.write(x, y + tall + 0.6 * LINE, images[i].name, cell, size=6.5, color=FAINT, tail=True)
        y += height + 1.2 * LINE + GAP
    sheet.save(file)


def _fitted(shape: Sequence[int], side: float) -> tuple[float, float]:
    """(width, height) in inches of an image whose longer side is `side`."""
    height, width = shape[:2]
    return side * width / max(height, width), side * height / max(height, width)
