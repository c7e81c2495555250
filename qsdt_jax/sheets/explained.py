"""What `predict --explain` shows of an image: attention received, spikes by stage, what moves the score."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsdt_jax.explain.attention import even_shares
from qsdt_jax.progress import tell
from qsdt_jax.sheets.classes import BARS, FIRST_BAR, OTHER_BAR, ClassesShown
from qsdt_jax.sheets.sheet import EDGE, FAINT, HEADER, INK, LINE, MARGIN, Sheet, percent
from qsdt_jax.sheets.written import Folder

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.answers.classes import Prediction
    from qsdt_jax.explain.explanation import Explanation

ACROSS, ROOM = 9.4, 9.4 - 2 * MARGIN  # Inches.
PICTURE, RASTER, BAR = 1.9, 2.3, 0.09
LARGEST_MAP, MAPS_IN_ROW = 1.5, 8
SCALE = 0.62  # What a colour scale takes beside a panel, with its labels.
ABOVE, BELOW = 2.3 * LINE, 2.4 * LINE  # Of a row of panels, for what is written there.
SMALL, NORMAL, HEADING = 6.5, 7.5, 8.5  # Points.
STRONGEST = 2.0  # Attention is coloured up to this many even shares, and down to one of so many parts.
WRITTEN = 16  # Of at most so many places the numbers are written.
OFF, ON = "#f3f5f7", "#2f6fb5"

Q_K = "r_j = sum over heads, time steps and places i of q_i · k_j, in spike counts"
DUAL = "r_p = sum over heads, time steps and places l of A_pl, DSSA's map of spikes; p: pooled places"
NO_GRADIENTS = "no gradients: the weights of a bundle are integers"


class ExplainedShown:
    """Explanations on their way to the reader, beside what is shown of predictions.

    Args:
      classes: shows the predictions.
      explain: explains one.
      folder: gets a picture of each image; made where it is missing. Pictures of before are written over, and
        no other file.
      sheet, images: files that no picture may take the place of.

    Raises:
      UserError: the folder cannot be made.
    """

    def __init__(
        self, classes: ClassesShown, explain: "Callable[[Prediction], Explanation]", folder: Path,
        sheet: Path, images: Sequence[str],
    ):  # fmt: skip
        self.classes, self.explain = classes, explain
        self.folder = Folder(folder, (sheet, *images))

    def add(self, answer: "Prediction") -> str:
        """Draws an image's picture; what is told of it: its likeliest classes."""
        told, file = self.classes.add(answer), self.folder.file_for(answer.name)
        sheet = explained_sheet(self.explain(answer), self.classes.class_names, self.classes.title)
        sheet.save(file)
        if file.stem != (stem := Path(answer.name).stem):
            tell(f"{answer.name}: its explanation is {file.name}, for {stem}.png is another file")
        return told

    @property
    def drawn(self) -> "Sequence[Prediction]":
        """The predictions on the sheet."""
        return self.classes.drawn

    def draw(self, file: Path) -> None:
        """Writes the sheet of the predictions; raises UserError where that fails."""
        tell(f"explanations: {self.folder.path}, a PNG file each")
        self.classes.draw(file)


def explained_sheet(explanation: "Explanation", class_names: Sequence[str], title: str) -> Sheet:
    """The picture of one image.

    From above: the image as the network sees it, its gradients and its classes; the attention received in
    each block; the spikes of a sample of each stage's neurons.
    """
    height, width = explanation.prediction.view.shape[:2]
    blocks = len(explanation.attention)
    map_rows = math.ceil(blocks / MAPS_IN_ROW)
    columns = math.ceil(blocks / map_rows)
    map_wide = min(LARGEST_MAP, (ROOM - SCALE) / columns - 0.1)
    map_tall, tall = map_wide * height / width, PICTURE * height / width
    first = MARGIN + HEADER + ABOVE / 2
    second = first + tall + BELOW + ABOVE
    third = second + map_rows * (map_tall + 1.3 * LINE) + BELOW / 2 + ABOVE
    down = third + RASTER + BELOW + MARGIN / 2
    sheet = Sheet(ACROSS, down, f"{explanation.prediction.name}  ·  {title}")
    _top(sheet, explanation, class_names, first, tall)
    _attention(sheet, explanation, second, columns, map_wide, map_tall)
    _rasters(sheet, explanation, third)
    return sheet


def _top(sheet: Sheet, explanation: "Explanation", class_names: Sequence[str], y: float, tall: float) -> None:
    """The image, its gradients where there are some, and its classes."""
    prediction, x, name = explanation.prediction, MARGIN, class_names[int(explanation.prediction.order[0])]
    view = prediction.view

    def said(title: str, *below: str) -> None:
        wide = PICTURE + SCALE - 0.1
        sheet.write(x, y - 0.8 * LINE, title, wide, size=HEADING, color=INK, weight="bold")
        for i, text in enumerate(below):
            sheet.write(x, y + tall + (0.9 + 0.9 * i) * LINE, text, wide, size=SMALL, color=FAINT)

    gradients = explanation.saliency is not None and explanation.grad_cam is not None
    said("as the network sees it", "x".join(map(str, view.shape)), "" if gradients else NO_GRADIENTS)
    sheet.picture(view, x, y, PICTURE, tall)
    x += PICTURE + 0.4
    of_class = f"surrogate gradients, score of {name}"
    if explanation.saliency is not None:
        said("input gradient", "|d score / d input|, largest of channels", of_class)
        drawn = _panel(sheet, (x, y, PICTURE, tall), explanation.saliency, cmap="magma")
        _from_zero(sheet, drawn, x, y, tall)
        x += PICTURE + SCALE
    if explanation.grad_cam is not None:
        said("Grad-CAM, last stage", "max(0, sum of w F), w: mean of d score / d F", of_class)
        drawn = _panel(sheet, (x, y, PICTURE, tall), explanation.grad_cam, view, cmap="inferno", alpha=0.6)
        _from_zero(sheet, drawn, x, y, tall)
        _written(drawn.axes, explanation.grad_cam, explanation.grad_cam < explanation.grad_cam.max() / 2)
        x += PICTURE + SCALE
    said("classes")
    wide = min(ACROSS - MARGIN - x, PICTURE)
    for i, k in enumerate(prediction.order[: BARS + 2]):
        top, chance = y + (0.7 + 1.9 * i) * LINE, float(prediction.probabilities[k])
        sheet.write(x, top, class_names[int(k)], wide - 0.5, size=NORMAL, color=INK)
        sheet.write(x + wide, top, percent(chance), 0.5, size=SMALL, color=INK, align="right")
        color = FIRST_BAR if i == 0 else OTHER_BAR
        sheet.box(x, top + 0.55 * LINE, wide, 0.4 * LINE, color="0.95", linewidth=0)
        sheet.box(x, top + 0.55 * LINE, wide * chance, 0.4 * LINE, color=color, linewidth=0)


def _attention(
    sheet: Sheet, explanation: "Explanation", y: float, columns: int, wide: float, tall: float
) -> None:
    """A map for each block, on one scale for all pictures."""
    from matplotlib.colors import LogNorm

    told = f"{DUAL if explanation.dual else Q_K}. Colour: as a multiple of an even share"
    _headed(sheet, y, "attention received", told)
    norm, drawn = LogNorm(1 / STRONGEST, STRONGEST, clip=True), None
    for i, (block, received) in enumerate(explanation.attention.items()):
        row, column = divmod(i, columns)
        x, top, shares = MARGIN + column * (wide + 0.1), y + row * (tall + 1.3 * LINE), even_shares(received)
        box, view = (x, top, wide, tall), explanation.prediction.view
        drawn = _panel(sheet, box, shares, view, cmap="RdBu_r", norm=norm, alpha=0.65)
        _written(drawn.axes, shares, (shares <= 1 / STRONGEST) | (shares >= STRONGEST))
        said = f"{block}, max {shares.max():.1f}"
        sheet.write(x, top + tall + 0.6 * LINE, said, wide, size=SMALL, color=FAINT)
    ticks = {1 / STRONGEST: "1/2", 1: "even", STRONGEST: "2"}
    _scale(sheet, drawn, MARGIN + columns * (wide + 0.1), y, tall, ticks, extend="both")


def _rasters(sheet: Sheet, explanation: "Explanation", y: float) -> None:
    """A raster for each stage: a row for each neuron of the sample, a column for each virtual step."""
    from matplotlib.colors import ListedColormap

    levels, steps = explanation.levels, explanation.levels * explanation.timesteps
    told = (
        f"blue: a spike. Columns are the virtual steps (T = {explanation.timesteps} x D = {levels}), rows a "
        "sample of the neurons, first layers on top"
    )
    _headed(sheet, y - LINE, "spikes by stage", told)
    step = (ROOM + 0.25) / len(explanation.rasters)
    wide, every = step - 0.25, max(1, steps // 8)
    for i, raster in enumerate(explanation.rasters):
        x = MARGIN + i * step
        rate = f"{raster.stage}: firing rate {percent(raster.rate)}"
        sheet.write(x, y - 0.6 * LINE, rate, wide + 0.15, size=NORMAL, color=INK)
        axes = sheet.panel(x, y, wide, RASTER)
        how = {"cmap": ListedColormap([OFF, ON]), "vmin": 0, "vmax": 1, "interpolation": "none"}
        axes.imshow(raster.spikes, aspect="auto", **how)
        for column in range(1, steps):
            border = levels > 1 and column % levels == 0
            axes.axvline(column - 0.5, color=INK if border else "white", linewidth=0.9 if border else 0.5)
        axes.set_xticks(range(0, steps, every), range(1, steps + 1, every))
        axes.tick_params(labelsize=SMALL, length=2, color=EDGE, labelcolor=INK, pad=1)
        rows = f"{len(raster.spikes)} of {raster.neurons:,} neurons"
        sheet.write(x, y + RASTER + 1.8 * LINE, rows, wide, size=SMALL, color=FAINT)


def _headed(sheet: Sheet, y: float, title: str, told: str) -> None:
    """A heading above a row of panels, and what they show."""
    sheet.write(MARGIN, y - 0.9 * LINE, title, 1.5, size=HEADING, color=INK, weight="bold")
    sheet.write(MARGIN + 1.45, y - 0.9 * LINE, told, ROOM - 1.45, size=SMALL, color=FAINT)


def _panel(
    sheet: Sheet, box: tuple[float, float, float, float], values: np.ndarray, view: np.ndarray | None = None,
    **how: Any,
) -> Any:  # fmt: skip
    """Values (h, w) in colours, over a grey image where there is a view; matplotlib's image of them."""
    axes, (height, width) = sheet.panel(*box), values.shape
    edges = (0, width, height, 0)
    if not values.any():
        values, place = np.ma.masked_all(values.shape), (width / 2, height / 2)
        axes.set(facecolor=OFF)
        axes.text(*place, "0 everywhere", ha="center", va="center", fontsize=SMALL, color=FAINT)
    elif view is not None:
        # Black is shown as grey, so that colours look over it as in their scale, which lies on white.
        axes.imshow(view.mean(-1), cmap="gray", vmin=-255, vmax=255, extent=edges, aspect="auto")
    return axes.imshow(values, extent=edges, aspect="auto", **how)


def _written(axes: Any, values: np.ndarray, dark: np.ndarray) -> None:
    """The numbers of a map with few places, white where its colours are dark; of one of zeros none."""
    if values.size > WRITTEN or not values.any():
        return
    for (j, k), value in np.ndenumerate(values):
        how = {"ha": "center", "va": "center", "fontsize": SMALL, "color": "white" if dark[j, k] else INK}
        axes.text(k + 0.5, j + 0.5, f"{value:.2g}", **how)


def _from_zero(sheet: Sheet, drawn: Any, x: float, y: float, tall: float) -> None:
    """The colour scale of a panel in the upper row, from 0 to its largest value, where that is not 0."""
    most = drawn.get_array().max()
    if most is np.ma.masked:
        return
    drawn.set_clim(0, most)
    told = f"{most:.2g}" if 1e-3 <= most < 1e3 else f"{most:.0e}"
    _scale(sheet, drawn, x + PICTURE + 0.06, y, tall, {0: "0", most: told})


def _scale(
    sheet: Sheet, drawn: Any, x: float, y: float, tall: float, ticks: Mapping[float, str], **how: Any
) -> None:
    bar = sheet.figure.colorbar(drawn, cax=sheet.panel(x, y, BAR, tall), **how)
    bar.set_ticks([*ticks], labels=[*ticks.values()])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=SMALL, length=2, color=EDGE, labelcolor=INK)
    bar.outline.set(linewidth=0)
