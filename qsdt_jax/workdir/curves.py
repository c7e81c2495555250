"""The learning curves of a run as a picture."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qsdt_jax.files import write_atomically
from qsdt_jax.metric import Metric
from qsdt_jax.workdir.history import History
from qsdt_jax.workdir.nicety import nicety

CURVES_FILE = "curves.png"
PIECES = 500  # Into which a longer curve is cut; of each its lowest and its highest point are drawn.


def draw_curves(workdir: str | os.PathLike[str], history: History, metrics: Sequence[Metric]) -> None:
    """Draws the learning curves of a run into `curves.png` of its workdir; where that fails, it warns.

    Left the training loss of every logged step and its running mean with the evaluation loss, right the
    first metric of the evaluation and the learning rate. Of a long run a picture shows no more than a bounded
    number of points, which keeps the time for it in bounds.
    """
    with nicety(f"{CURVES_FILE} cannot be drawn"):
        write_atomically(Path(workdir) / CURVES_FILE, _picture(history, metrics))


def _picture(history: History, metrics: Sequence[Metric]) -> bytes:
    from matplotlib.figure import Figure

    # Margins that are given: a layout that is computed takes two thirds of a second.
    margins = {"left": 0.07, "right": 0.92, "bottom": 0.13, "top": 0.91, "wspace": 0.2}
    figure = Figure(figsize=(11, 4))
    loss_axes, score_axes = figure.subplots(1, 2, gridspec_kw=margins)
    steps, values = history.series("train/loss")
    loss_axes.plot(*extremes(steps, values), color="C0", alpha=0.25, linewidth=0.8)
    loss_axes.plot(*running_mean(steps, values), color="C0", label="training (running mean)")
    [score, *_], losses = metrics, [metric for metric in metrics if metric.name == "loss"]
    for loss in losses:
        series = extremes(*history.series(loss.logged))
        loss_axes.plot(*series, "o-", color="C1", markersize=3, label="evaluation")
    loss_axes.set(xlabel="step", ylabel=losses[0].label if losses else "loss", yscale="log")
    loss_axes.legend(frameon=False)

    steps, scores = history.series(score.logged)
    score_axes.plot(*extremes(steps, scores), "o-", color="C1", markersize=3)
    score_axes.set(xlabel="step", ylabel=f"evaluation {score.label}")
    if best := history.best(score.logged, score.larger_is_better):
        title = f"last {score.text(scores[-1])}, best {score.text(best[1])}"
        score_axes.set_title(title, fontsize=10)
    rate_axes = score_axes.twinx()
    rate_axes.plot(*extremes(*history.series("train/learning_rate")), color="0.6", linewidth=1)
    rate_axes.set_ylabel("learning rate", color="0.5")
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.3)
        axes.spines[["top"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=120)
    return stream.getvalue()


def extremes(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 2 * PIECES points that draw the same curve: the lowest and highest value of each piece."""
    if len(values) <= 2 * PIECES:
        return steps, values
    kept = {0, len(values) - 1}
    for piece in np.array_split(np.arange(len(values)), PIECES - 1):
        kept |= {int(piece[np.argmin(values[piece])]), int(piece[np.argmax(values[piece])])}
    rows = sorted(kept)
    return steps[rows], values[rows]


def running_mean(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of up to a 50th of all values until each of at most 2 * PIECES steps."""
    window = max(1, math.ceil(len(values) / 50))
    rows = np.unique(np.linspace(0, len(values) - 1, min(len(values), 2 * PIECES)).round().astype(int))
    means = [np.mean(values[max(0, row + 1 - window) : row + 1]) for row in rows]
    return steps[rows], np.asarray(means)
