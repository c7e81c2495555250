"""What `predict` shows of a classifier: the likeliest classes of each image, and a sheet of the pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qsdt_jax.sheets.sheet import FAINT, GAP, HEADER, INK, LINE, MARGIN, MOST_IMAGES, Sheet, percent

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.answers.classes import Prediction

CELL, PICTURE = 1.75, 1.5  # Inches.
BARS = 3
FIRST_BAR, OTHER_BAR = "#2f6fb5", "#b9c9da"


class ClassesShown:
    """Predictions on their way to the reader.

    Args:
      title: of the network.
      class_names: K names.
      top: classes told of each image.
    """

    def __init__(self, title: str, class_names: Sequence[str], top: int):
        self.title, self.class_names, self.top = title, class_names, top
        self.drawn: list[Prediction] = []

    def add(self, answer: "Prediction") -> str:
        """What is told of an image: its likeliest classes."""
        if len(self.drawn) < MOST_IMAGES:
            self.drawn.append(answer)
        probabilities = answer.probabilities
        chosen = answer.order[: self.top]
        return ", ".join(f"{self.class_names[k]} {100 * probabilities[k]:.2f} %" for k in chosen)

    def draw(self, file: Path) -> None:
        """Writes the sheet as a PNG file; raises UserError where that fails."""
        draw_sheet(file, self.drawn, self.class_names, self.title)


def draw_sheet(
    file: Path, predictions: Sequence["Prediction"], class_names: Sequence[str], title: str
) -> None:
    """Draws the pictures, each with its name, its class, and bars for the likeliest three, as a PNG file.

    Raises:
      UserError: the file cannot be written.
    """
    height, width = predictions[0].view.shape[:2]
    tall = PICTURE * height / width
    bars = min(BARS, len(class_names))
    cell_height = tall + (bars + 2.6) * LINE
    columns = min(len(predictions), 10, math.ceil(math.sqrt(1.6 * len(predictions))))
    rows = -(-len(predictions) // columns)
    across = max(2 * MARGIN + columns * (CELL + GAP) - GAP, 2.6)
    down = 2 * MARGIN + HEADER + rows * (cell_height + GAP) - GAP
    sheet = Sheet(across, down, title)
    for i, prediction in enumerate(predictions):
        row, column = divmod(i, columns)
        x = MARGIN + column * (CELL + GAP)
        y = MARGIN + HEADER + row * (cell_height + GAP)
        _draw_cell(sheet, x, y, tall, prediction, class_names, bars)
    sheet.save(file)


def _draw_cell(
    sheet: Sheet, x: float, y: float, tall: float, prediction: "Prediction", class_names: Sequence[str],
    bars: int,
) -> None:  # fmt: skip
    """One image and what is said of it, from its upper left corner in inches."""
    left, middle = x + (CELL - PICTURE) / 2, x + CELL / 2
    sheet.picture(prediction.view, left, y, PICTURE, tall)

    y += tall + 0.6 * LINE
    name = Path(prediction.name).name
    sheet.write(middle, y, name, CELL, size=6.5, color=FAINT, align="center", tail=True)
    y += 1.1 * LINE
    chosen = prediction.order[:bars]
    chances = prediction.probabilities[chosen]
    names = [class_names[int(k)] for k in chosen]
    sheet.write(middle, y, names[0], CELL, size=10, color=INK, align="center", weight="bold")
    y += 1.15 * LINE
    right = left + PICTURE
    start = left + (0.12 if max(map(len, class_names)) <= 2 else 0.4) * PICTURE
    full = right - 0.3 * PICTURE - start
    for i, (name, chance) in enumerate(zip(names, chances, strict=True)):
        thick, color = 0.62 * LINE, FIRST_BAR if i == 0 else OTHER_BAR
        sheet.box(start, y - thick / 2, full, thick, color="0.95", linewidth=0)
        sheet.box(start, y - thick / 2, full * float(chance), thick, color=color, linewidth=0)
        sheet.write(start - 0.05, y, name, start - 0.05 - x, size=6.5, color=INK, align="right")
        sheet.write(right, y, percent(chance), 0.3 * PICTURE, size=6.5, color=INK, align="right")
        y += LINE
