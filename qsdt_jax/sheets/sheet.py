"""A sheet of pictures with text, in inches from its upper left corner, as a PNG file."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from qsdt_jax.files import write_atomically
from qsdt_jax.sheets.written import SOFTWARE

MOST_IMAGES = 200  # Of a sheet; more would make a picture that no viewer opens.
DOTS_PER_INCH = 130
GAP, MARGIN, HEADER = 0.3, 0.3, 0.35
LINE = 0.17  # Height of a line of small print.
INK, FAINT, EDGE = "#1b1f24", "#6a737d", "0.75"


class Sheet:
    """A sheet to draw on.

    Args:
      across, down: its size.
      title: its first line.
    """

    def __init__(self, across: float, down: float, title: str):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.across, self.down = across, down
        self.figure = Figure(figsize=(across, down), dpi=DOTS_PER_INCH, facecolor="white")
        # Text is measured many times, and without a canvas of its own a figure makes a new one for each.
        FigureCanvasAgg(self.figure)
        self.axes: Any = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, across), ylim=(down, 0))
        self.write(MARGIN, MARGIN, title, across - 2 * MARGIN, size=9, color=FAINT, tail=True)

    def picture(self, pixels: np.ndarray, x: float, y: float, width: float, height: float) -> None:
        """uint8 (H, W, C), grey or coloured, with an edge."""
        grey = pixels.shape[-1] == 1
        self.axes.imshow(
            pixels[..., 0] if grey else pixels,
            cmap="gray" if grey else None,
            vmin=0,
            vmax=255,
            extent=(x, x + width, y + height, y),
        )
        self.box(x, y, width, height, fill=False, color=EDGE, linewidth=0.8)

    def box(self, x: float, y: float, width: float, height: float, **how: Any) -> None:
        """A rectangle; `how` are arguments of matplotlib's."""
        from matplotlib.patches import Rectangle

        self.axes.add_patch(Rectangle((x, y), width, height, **how))

    def write(
        self, x: float, y: float, text: str, width: float, *, size: float, color: str, align: str = "left",
        weight: str = "normal", tail: bool = False,
    ) -> None:  # fmt: skip
        """Text about a height, shortened to at most `width`: its end goes, or with `tail` its middle."""
        text = " ".join(text.split())
        drawn = self.axes.text(
            x, y, text, fontsize=size, color=color, ha=align, va="center", weight=weight, parse_math=False
        )
        kept = len(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            renderer = self.axes.figure.canvas.get_renderer()
            while (share := width * DOTS_PER_INCH / drawn.get_window_extent(renderer).width) < 1 and kept > 2:
                kept = min(kept - 1, int(kept * share))
                end = kept // 2 if tail else 0
                drawn.set_text(f"{text[: kept - end].rstrip(' ,')}…{text[len(text) - end :]}")

    def panel(self, x: float, y: float, width: float, height: float) -> Any:
        """Axes of their own, without ticks, for what has a scale."""
        place = x / self.across, 1 - (y + height) / self.down, width / self.across, height / self.down
        axes: Any = self.figure.add_axes(place)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=EDGE, linewidth=0.8)
        return axes

    def save(self, file: Path) -> None:
        """Writes a PNG file; raises UserError where it cannot be written."""
        write_atomically(file, self.png())

    def png(self) -> bytes:
        """The content of a PNG file that is known again, see `written.SOFTWARE`."""
        content = io.BytesIO()
        # Set last, since each picture moves the limits.
        self.axes.set(xlim=(0, self.across), ylim=(self.down, 0), aspect="auto")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A letter that the font lacks is drawn as a box.
            self.figure.savefig(content, format="png", metadata=dict([SOFTWARE]))
        return content.getvalue()


def percent(share: float) -> str:
    """Of a share from 0 to 1, in few letters."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"
