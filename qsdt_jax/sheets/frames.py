"""What `predict` shows of a classifier of events: the likeliest classes, and a sheet of the frames it sees.

Events of rising brightness are blue, those of falling brightness red, on white; a pixel with both is violet
to black. The more events it has the darker it is, up to a number that is the same in all frames of a stream.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qsdt_jax.data.events.frames import POLARITIES
from qsdt_jax.sheets.classes import ClassesShown, draw_said
from qsdt_jax.sheets.sheet import FAINT, GAP, HEADER, LINE, MARGIN, Sheet

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.answers.classes import Prediction

MOST_STREAMS = 40  # Of a sheet.
MOST_FRAMES = 16  # Of a stream; of more, some at equal distances are drawn.
ACROSS = 8  # Frames beside each other.
FRAMES, LARGEST, BETWEEN = 8.4, 1.7, 0.08  # Inches: all frames of a row, one of them, and between two.
SAID = 1.75  # Inches of what is said of a stream, beside its frames.
OFF, ON = np.array([200, 30, 30]), np.array([25, 80, 190])
FAINTEST = 0.35  # Share of the colour of a pixel with the fewest events.
BRIGHTEST = 0.995  # Share of the pixels with events that are not saturated.


class FramesShown(ClassesShown):
    """Predictions of event streams on their way to the reader; arguments as of `ClassesShown`."""

    def add(self, answer: "Prediction") -> str:
        """What is told of a stream: its likeliest classes."""
        told = super().add(answer)
        del self.drawn[MOST_STREAMS:]
        return told

    def draw(self, file: Path) -> None:
        """Writes the sheet as a PNG file; raises UserError where that fails."""
        draw_sheet(file, self.drawn, self.class_names, self.title)


def coloured(frames: np.ndarray) -> np.ndarray:
    """Pictures of frames.

    Args:
      frames: (T, H, W, C) counts of events of falling and of rising brightness, not below 0; of a third
        channel, their sum, nothing is drawn.

    Returns:
      uint8 (T, H, W, 3).
    """
    counts = np.asarray(frames, np.float64)[..., :POLARITIES]
    seen = counts[counts > 0]
    full = np.quantile(seen, BRIGHTEST) if seen.size else 1.0
    shares = np.where(counts > 0, FAINTEST + (1 - FAINTEST) * np.minimum(counts / full, 1), 0)
    white = np.full(3, 255.0)
    off, on = (1 - shares[..., i : i + 1] * (1 - ink / white) for i, ink in ((0, OFF), (1, ON)))
    return np.round(white * off * on).astype(np.uint8)


def draw_sheet(
    file: Path, predictions: Sequence["Prediction"], class_names: Sequence[str], title: str
) -> None:
    """Draws the frames of each stream in the order of time, and beside them its name, class and bars.

    Args:
      file: PNG file.
      predictions: with frames (T, H, W, C) as views.
      class_names: K names.
      title: of the sheet.

    Raises:
      UserError: the file cannot be written.
    """
    timesteps, height, width = predictions[0].view.shape[:3]
    chosen = np.unique(np.linspace(0, timesteps - 1, min(timesteps, MOST_FRAMES)).round().astype(int))
    across = min(len(chosen), ACROSS)
    wide = min(LARGEST, (FRAMES - (across - 1) * BETWEEN) / across)
    tall = wide * height / width
    rows = math.ceil(len(chosen) / across)
    block = max(rows * (tall + 1.2 * LINE), 5.5 * LINE)
    left = MARGIN + across * (wide + BETWEEN) - BETWEEN + GAP
    sheet = Sheet(
        left + SAID + MARGIN, 2 * MARGIN + HEADER + LINE + len(predictions) * (block + GAP) - GAP, title
    )
    _draw_legend(sheet, MARGIN + HEADER)
    for i, prediction in enumerate(predictions):
        top = MARGIN + HEADER + LINE + i * (block + GAP)
        pictures = coloured(prediction.view)
        for place, step in enumerate(chosen):
            row, column = divmod(place, across)
            x, y = MARGIN + column * (wide + BETWEEN), top + row * (tall + 1.2 * LINE)
            sheet.picture(pictures[step], x, y, wide, tall)
            number = f"{step + 1}" if place else f"frame {step + 1} of {timesteps}"
            sheet.write(x, y + tall + 0.5 * LINE, number, wide, size=6, color=FAINT)
        draw_said(sheet, left, top + 0.5 * LINE, prediction, class_names, align="left")
    sheet.save(file)


def _draw_legend(sheet: Sheet, y: float) -> None:
    for i, (ink, text) in enumerate(((ON, "brighter (ON)"), (OFF, "darker (OFF)"))):
        x = MARGIN + 1.2 * i
        sheet.box(x, y - 0.09, 0.11, 0.11, facecolor=tuple(ink / 255), linewidth=0)
        sheet.write(x + 0.17, y - 0.03, text, 1.0, size=6.5, color=FAINT)
