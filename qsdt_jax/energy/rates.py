"""Spike counts of every neuron of a network, measured on real images."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import Arithmetic
from qsdt_jax.deploy.program import Program
from qsdt_jax.detection.inference import Settings
from qsdt_jax.energy.counted import counted, neurons_of
from qsdt_jax.energy.unfolded import Unfolded
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.split import MASK, Scored, evaluate_split, over_devices
from qsdt_jax.tasks.task import Scorer


@dataclasses.dataclass(frozen=True)
class Activity:
    """How a network fires on a split.

    Attributes:
      histograms: for each neuron by its name (D + 1,) int64, how often it gave each count 0..D; what
        padding makes of itself is left out.
      metrics: of the same form on the same images, by name.
      images: their number.
      effective: operations of an image whose weight and input are both nonzero, by layer with weights; empty
        where they are not counted, see `counted.Run`.
    """

    histograms: Mapping[str, np.ndarray]
    metrics: Mapping[str, float]
    images: int
    effective: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def count(self, neuron: str) -> float:
        """Mean spike count of a neuron in one time step, 0..D."""
        histogram = self.histograms[neuron]
        return float(histogram @ np.arange(len(histogram)) / histogram.sum())

    def firing_rate(self, neuron: str) -> float:
        """Share of its D slots that carry a spike."""
        return self.count(neuron) / (len(self.histograms[neuron]) - 1)


def measure_activity(
    program: Program | FoldedDetector | Unfolded,
    batches: Iterable[Mapping[str, Any]],
    scorer: Scorer,
    arithmetic: Arithmetic | None = None,
    truth: Any = None,
    settings: Settings | None = None,
) -> Activity:
    """Runs a program over a split.

    Args:
      program: a folded network with logits, a detector, or a network that cannot be folded.
      batches: {"image": (B, ...), "mask": (B,) ...}, with padded images "size" (B, 2) too; rows whose mask is
        0 are padding.
      scorer: of what the network gives, which says what else a batch has.
      arithmetic: the integer form, unless given.
      truth: what the split's source has besides its batches, see `tasks.task.Scorer.summarize`.
      settings: of a detector.

    Raises:
      UserError: a detector found no object, so its mask head saw nothing.
    """
    step = jax.jit(functools.partial(_scored, arithmetic or IntegerArithmetic(), settings, scorer))
    histograms: dict[str, np.ndarray] = {}
    effective: dict[str, int] = {}
    images = 0

    def scored(batch: Mapping[str, Any]) -> Scored:
        nonlocal images
        counts, operations, found = step(program, dict(batch))
        for name, rows in counts.items():
            histograms[name] = histograms.get(name, 0) + np.asarray(rows, np.int64).sum(0)
        for name, rows in operations.items():
            effective[name] = effective.get(name, 0) + int(np.asarray(rows, np.int64).sum())
        images += int(np.sum(np.asarray(batch[MASK]) > 0))
        return found

    metrics = evaluate_split(scored, batches, lambda total: scorer.summarize(total, truth))
    if unused := [name for name in neurons_of(program) if not histograms[name].sum()]:
        raise UserError(
            f"expected regions with an object; found none in {images:,} images, "
            f"so {unused[0]} has no firing rate"
        )
    return Activity(
        {name: histograms[name] for name in neurons_of(program)},
        metrics,
        images,
        {name: total / images for name, total in effective.items()},
    )


def _scored(
    arithmetic: Arithmetic,
    settings: Settings | None,
    scorer: Scorer,
    program: Program | FoldedDetector | Unfolded,
    batch: Mapping[str, jax.Array],
):
    """Histograms (B, D + 1) and effective operations of each image, those of padding zero, and its score."""
    outputs, found, effective = counted(program, settings, arithmetic, batch)
    images, levels = batch[MASK].shape[0], program.neuron.levels

    def histogram(counts: jax.Array, valid: jax.Array | None) -> jax.Array:
        if valid is not None:  # A count that is none of 0..D is in no column.
            counts = jnp.where(valid, counts, -1)
        counts = counts.reshape(images, -1)
        columns = [jnp.sum(counts == c, 1, dtype=jnp.int32) for c in range(levels + 1)]
        return jnp.where(batch[MASK][:, None] > 0, jnp.stack(columns, 1), 0)

    histograms = {name: histogram(*counts) for name, counts in found.items()}
    steps = jnp.repeat(batch[MASK] > 0, program.neuron.timesteps)[:, None]
    effective = {name: jnp.where(steps, operations, 0) for name, operations in effective.items()}
    return histograms, effective, over_devices(scorer.score(outputs, batch), batch[MASK])
