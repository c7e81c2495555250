"""Metrics of a run: `metrics.jsonl` is the truth, TensorBoard beside it, learning curves as a picture."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsdt_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All lines of a run's metrics.jsonl; a half-written last line is left out."""
    file = Path(workdir) / METRICS_FILE
    if not file.exists():
        return []
    lines = []
    for line in file.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


class MetricWriter:
    """Appends metrics to the workdir.

    A run resumed at `step` drops what was logged after it, because those steps are run again. With `writes`
    false it only remembers, in a process beside the one that writes.

    Raises:
      UserError: the files cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike[str], step: int, *, writes: bool = True):
        self.lines = [line for line in read_metrics(workdir) if line["step"] <= step]
        self._writes = writes
        if not writes:
            return
        from tensorboardX import SummaryWriter  # Slow to import; only training writes.

        logging.getLogger("tensorboardX").setLevel(logging.WARNING)
        self._file = Path(workdir) / METRICS_FILE
        try:
            self._rewrite()
            self._stream = open(self._file, "a")  # noqa: SIM115 (open for the run)
            self._board = SummaryWriter(
                str(Path(workdir) / "tensorboard"), purge_step=step + 1 if step else None
            )
        except OSError as error:
            raise UserError(f"{self._file} cannot be written: {error.strerror}") from None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line {"step": step, ...}; it is on disk when this returns.

        Raises:
          UserError: the disk is full, or the file cannot be written.
        """
        line = {"step": step, **metrics}
        if self._writes:
            self._append(line)
        self.lines.append(line)

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
            for name, value in line.items():
                if name != "step":
                    self._board.add_scalar(name, value, line["step"])
        except OSError as error:
            raise UserError(f"{self._file} cannot be written: {error.strerror}") from None

    def line(self, step: int, name: str) -> dict[str, Any] | None:
        """The newest line of `step` with a value under `name`, or None."""
        return next((line for line in reversed(self.lines) if line["step"] == step and name in line), None)

    def best(self, name: str) -> dict[str, Any] | None:
        """The line with the largest value under `name`, the newest of equals; NaN is below any number."""
        lines = [line for line in self.lines if name in line]
        return max(
            lines, key=lambda line: (not math.isnan(line[name]), line[name], line["step"]), default=None
        )

    def close(self) -> None:
        """Closes the files."""
        if not self._writes:
            return
        self._stream.close()
        self._board.close()

    def _rewrite(self) -> None:
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        os.replace(temporary, self._file)


def draw_curves(workdir: str | os.PathLike[str]) -> Path:
    """Draws the learning curves of a run into `curves.png` of its workdir.

    Left the training loss of every logged step and its running mean with the evaluation loss, right the
    evaluation top-1 (where the task has one) and the learning rate.
    """
    from matplotlib.figure import Figure

    lines = read_metrics(workdir)
    figure = Figure(figsize=(11, 4), layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    steps, losses = _series(lines, "train/loss")
    loss_axes.plot(steps, losses, color="C0", alpha=0.25, linewidth=0.8)
    loss_axes.plot(steps, _running_mean(losses), color="C0", label="training (running mean)")
    steps, losses = _series(lines, "eval/loss")
    loss_axes.plot(steps, losses, "o-", color="C1", markersize=3, label="evaluation")
    loss_axes.set(xlabel="step", ylabel="loss (nats)", yscale="log")
    loss_axes.legend(frameon=False)

    steps, scores = _series(lines, "eval/top1")
    score_axes.plot(steps, scores, "o-", color="C1", markersize=3)
    score_axes.set(xlabel="step", ylabel="evaluation top-1 (%)")
    if scores:
        score_axes.set_title(f"last {scores[-1]:.2f} %, best {max(scores):.2f} %", fontsize=10)
    rate_axes = score_axes.twinx()
    steps, rates = _series(lines, "train/learning_rate")
    rate_axes.plot(steps, rates, color="0.6", linewidth=1)
    rate_axes.set_ylabel("learning rate", color="0.5")
    for axes in (loss_axes, score_axes):
        axes.grid(alpha=0.3)
        axes.spines[["top"]].set_visible(False)
    path = Path(workdir) / CURVES_FILE
    figure.savefig(path, dpi=120)
    return path


def _series(lines: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in points], [value for _, value in points]


def _running_mean(values: list[float]) -> list[float]:
    window = max(1, math.ceil(len(values) / 50))
    return [
        sum(values[max(0, i + 1 - window) : i + 1]) / len(values[max(0, i + 1 - window) : i + 1])
        for i in range(len(values))
    ]
