"""Colours of classes, and the legend that names them."""

import math
from collections.abc import Sequence

import numpy as np

from qsdt_jax.sheets.sheet import FAINT, GAP, INK, MARGIN, Sheet

LEGEND_COLUMN, LEGEND_LINE, SWATCH = 2.1, 0.2, 0.13
LIGHTNESS = np.array([0.299, 0.587, 0.114])  # Shares of red, green and blue (ITU-R BT.601).
FIRST_COLOR = np.array([64.0, 96.0, 160.0])

Entry = tuple[str, np.ndarray, str]
"""Name and colour of a class, and what is said of it."""


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


def legend_height(across: float, entries: int) -> float:
    """Inches that a legend takes of a sheet so wide, with the gap below it."""
    return math.ceil(entries / _columns(across)) * LEGEND_LINE + GAP / 2


def draw_legend(sheet: Sheet, top: float, entries: Sequence[Entry]) -> None:
    """Each class in its colour, in columns from `top` down."""
    rows = math.ceil(len(entries) / _columns(sheet.across))
    for i, (name, color, said) in enumerate(entries):
        column, row = divmod(i, rows)
        x, y = MARGIN + column * LEGEND_COLUMN, top + row * LEGEND_LINE
        sheet.box(x, y - SWATCH / 2, SWATCH, SWATCH, facecolor=color / 255, edgecolor=INK, linewidth=0.4)
        sheet.write(x + SWATCH + 0.07, y, name, LEGEND_COLUMN - SWATCH - 0.75, size=7.5, color=INK)
        right = x + LEGEND_COLUMN - 0.2
        sheet.write(right, y, said, 0.5, size=6.5, color=FAINT, align="right")


def _columns(across: float) -> int:
    return max(1, int((across - 2 * MARGIN) / LEGEND_COLUMN))
