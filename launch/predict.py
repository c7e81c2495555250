"""image files -> the likeliest classes with their probabilities, and a sheet of the pictures."""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from launch.flags import DEFINED_OFTEN, POSITIONAL, define_path, require_writable
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded
from qsdt_jax.progress import tell

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.assemble.deployed import Deployed
    from qsdt_jax.assemble.trained import Trained

WORKDIR = define_path("workdir", "directory of a run or an import")
BUNDLE = define_path("bundle", "file of an exported network, in place of a workdir")
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
TOP = flags.DEFINE_integer("top", 5, "classes printed for each image", **DEFINED_OFTEN)
SHEET = define_path(
    "sheet",
    "PNG file of the sheet (default: predictions.png in the workdir or beside the bundle)",
)
FILES = flags.DEFINE_list(POSITIONAL, [], "FILE ...  image files", **DEFINED_OFTEN)

SHEET_FILE = "predictions.png"
SHEET_IMAGES = 200  # More would make a picture that no viewer opens.
BATCH_SIZE = 32

# Of the sheet, in inches.
CELL, PICTURE, GAP, MARGIN, HEADER = 1.75, 1.5, 0.3, 0.3, 0.35
LINE = 0.17  # Height of a line of small print.
BARS = 3
DOTS_PER_INCH = 130
INK, FAINT, FIRST_BAR, OTHER_BAR = "#1b1f24", "#6a737d", "#2f6fb5", "#b9c9da"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The classes of one image.

    Attributes:
      name: of the image.
      view: uint8 (H, W, C), the part of the image that the network sees, at its resolution.
      classes: (K,) class indices, the likeliest first.
      probabilities: (K,) in that order.
    """

    name: str
    view: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray


def main() -> None:
    """Predicts as the flags say; files that are no images are named, and the others still predicted."""
    files, top = [expanded(file) for file in FILES.value], TOP.value
    if (WORKDIR.value is None) == (BUNDLE.value is None):
        both = "; got both" if WORKDIR.value else ""
        raise UserError(f"predict needs --workdir DIR or --bundle FILE{both}")
    if BUNDLE.value is not None and (STEP.value != "latest" or EMA.value):
        raise UserError("--step and --ema choose from a --workdir; a bundle holds one network")
    folder = Path(WORKDIR.value) if WORKDIR.value is not None else Path(BUNDLE.value or "").parent
    if not files:
        raise UserError("predict needs image files, e.g. predict --workdir DIR one.png two.jpg")
    if top < 1:
        raise UserError(f"--top {top} must be at least 1")
    sheet = Path(SHEET.value or folder / SHEET_FILE)
    if sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet}: expected a file name that ends in .png")
    network = _load()
    require_writable("sheet", sheet)
    classes = network.classes
    if classes is None:
        raise UserError(f"predict shows classes, and the outputs of {network.title} are none")
    names = classes.shown
    if classes.names is None:
        tell(f"the classes of {classes.where} are not known: they are shown as numbers")

    shown: list[Prediction] = []
    unreadable: list[str] = []
    for prediction in predict(network, _images(network, files, unreadable)):
        chances = zip(prediction.classes[:top], prediction.probabilities[:top], strict=True)
        text = ", ".join(f"{names[int(k)]} {100 * p:.2f} %" for k, p in chances)
        print(f"{prediction.name}: {text}", flush=True)
        if len(shown) < SHEET_IMAGES:
            shown.append(prediction)
    if shown:
        draw_sheet(sheet, shown, names, network.title)
        count = len(files) - len(unreadable)
        some = f" (the first {len(shown)} of {count} images)" if count > len(shown) else ""
        tell(f"sheet: {sheet}{some}")
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(files)} files could not be read, see above")


def _load() -> "Trained | Deployed":
    """The network that the flags name."""
    if WORKDIR.value is not None:
        from qsdt_jax.assemble.trained import load_trained

        return load_trained(WORKDIR.value, step=STEP.value, ema=EMA.value)
    from qsdt_jax.assemble.deployed import load_deployed

    return load_deployed(BUNDLE.value or "")


def predict(network: "Trained | Deployed", images: Iterable[tuple[str, np.ndarray]]) -> Iterator[Prediction]:
    """Predictions of named images of any size, uint8 (H, W, C), with the preprocessing of evaluation.

    All batches have the same number of rows, the last one filled up, so the network is compiled once.
    """
    from qsdt_jax.data.inputs import to_inputs

    preprocess, rows = network.preprocess, 0
    # Cut at once, so that large images are held one at a time.
    views = ((name, preprocess.evaluation_view(image)) for name, image in images)
    while batch := list(itertools.islice(views, BATCH_SIZE)):
        rows = rows or len(batch)
        pixels = [view for _, view in batch]
        padding = [np.zeros_like(pixels[0])] * (rows - len(pixels))
        inputs = to_inputs({"image": np.stack(pixels + padding)}, preprocess.normalization)
        logits = np.asarray(network.logits(inputs["image"]), np.float64)
        for (name, view), row in zip(batch, logits[: len(batch)], strict=True):  # Without the padding.
            order = np.argsort(-row, kind="stable")
            chances = np.exp(row[order] - row[order[0]])
            yield Prediction(name, view, order, chances / chances.sum())


def _images(
    network: "Trained | Deployed", files: Sequence[str], unreadable: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each readable file with its pixels; the others are told and added to `unreadable`."""
    from qsdt_jax.data.images import MODES, read_image

    channels = network.channels
    if channels not in MODES:
        raise UserError(f"image files give 1 or 3 channels, but the network takes {channels}")
    for file in files:
        try:
            yield file, read_image(file, channels)
        except UserError as error:
            tell(f"error: {' '.join(str(error).split())}")
            unreadable.append(file)


def draw_sheet(file: Path, predictions: Sequence[Prediction], class_names: Sequence[str], title: str) -> None:
    """Draws the pictures, each with its name, its class, and bars for the likeliest three, as a PNG file.

    Raises:
      UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = predictions[0].view.shape[:2]
    tall = PICTURE * height / width
    bars = min(BARS, len(class_names))
    cell_height = tall + (bars + 2.6) * LINE
    columns = min(len(predictions), 10, math.ceil(math.sqrt(1.6 * len(predictions))))
    rows = -(-len(predictions) // columns)
    across = max(2 * MARGIN + columns * (CELL + GAP) - GAP, 2.6)
    down = 2 * MARGIN + HEADER + rows * (cell_height + GAP) - GAP

    figure = Figure(figsize=(across, down), dpi=DOTS_PER_INCH, facecolor="white")
    # Text is measured many times, and without a canvas of its own a figure makes a new one for each.
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    _write(axes, MARGIN, MARGIN, title, across - 2 * MARGIN, size=9, color=FAINT, tail=True)
    for i, prediction in enumerate(predictions):
        row, column = divmod(i, columns)
        x = MARGIN + column * (CELL + GAP)
        y = MARGIN + HEADER + row * (cell_height + GAP)
        _draw_cell(axes, x, y, tall, prediction, class_names, bars)
    # Inches from the upper left corner; set last, since each picture moves the limits.
    axes.set(xlim=(0, across), ylim=(down, 0), aspect="auto")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # A letter that the font lacks is drawn as a box.
            figure.savefig(file, format="png")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


def _draw_cell(
    axes: Any, x: float, y: float, tall: float, prediction: Prediction, class_names: Sequence[str], bars: int
) -> None:
    """One image and what is said of it, from its upper left corner in inches."""
    from matplotlib.patches import Rectangle

    grey = prediction.view.shape[-1] == 1
    left = x + (CELL - PICTURE) / 2
    axes.imshow(
        prediction.view[..., 0] if grey else prediction.view,
        cmap="gray" if grey else None,
        vmin=0,
        vmax=255,
        extent=(left, left + PICTURE, y + tall, y),
    )
    axes.add_patch(Rectangle((left, y), PICTURE, tall, fill=False, color="0.75", linewidth=0.8))

    y += tall + 0.6 * LINE
    _write(
        axes,
        x + CELL / 2,
        y,
        Path(prediction.name).name,
        CELL,
        size=6.5,
        color=FAINT,
        align="center",
        tail=True,
    )
    y += 1.1 * LINE
    percent = [_percent(p) for p in prediction.probabilities[:bars]]
    names = [class_names[int(k)] for k in prediction.classes[:bars]]
    _write(axes, x + CELL / 2, y, names[0], CELL, size=10, color=INK, align="center", weight="bold")
    y += 1.15 * LINE
    right = left + PICTURE
    start = left + (0.12 if max(map(len, class_names)) <= 2 else 0.4) * PICTURE
    full = right - 0.3 * PICTURE - start
    for i, (name, text) in enumerate(zip(names, percent, strict=True)):
        length = full * float(prediction.probabilities[i])
        color = FIRST_BAR if i == 0 else OTHER_BAR
        thick = 0.62 * LINE
        axes.add_patch(Rectangle((start, y - thick / 2), full, thick, color="0.95", linewidth=0))
        axes.add_patch(Rectangle((start, y - thick / 2), length, thick, color=color, linewidth=0))
        _write(axes, start - 0.05, y, name, start - 0.05 - x, size=6.5, color=INK, align="right")
        _write(axes, right, y, text, 0.3 * PICTURE, size=6.5, color=INK, align="right")
        y += LINE


def _write(
    axes: Any, x: float, y: float, text: str, width: float, *, size: float, color: str, align: str = "left",
    weight: str = "normal", tail: bool = False,
) -> None:  # fmt: skip
    """Text about a height, shortened to at most `width` inches: its end goes, or with `tail` its middle."""
    text = " ".join(text.split())
    drawn = axes.text(
        x, y, text, fontsize=size, color=color, ha=align, va="center", weight=weight, parse_math=False
    )
    kept = len(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        renderer = axes.figure.canvas.get_renderer()
        while (share := width * DOTS_PER_INCH / drawn.get_window_extent(renderer).width) < 1 and kept > 2:
            kept = min(kept - 1, int(kept * share))
            end = kept // 2 if tail else 0
            drawn.set_text(f"{text[: kept - end].rstrip(' ,')}…{text[len(text) - end :]}")


def _percent(probability: float) -> str:
    return "<0.1 %" if 0 < probability < 0.0005 else f"{100 * probability:.1f} %"
