"""Binary spikes over the virtual time steps, of a sample of each stage's neurons."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from qsdt_jax.deploy.spike_driven import unroll

ROWS = 64


class Raster(NamedTuple):
    """Spikes of one stage for one image.

    Attributes:
      stage: its name, "stage 1" to "stage 4", or "head".
      spikes: bool (rows, T * D); column t * D + d is the virtual step d of time step t, whose spike says that
        the neuron's count is above d. Rows are in the order of depth.
      neurons: of the stage, all of them.
      rate: spikes of all of them over the virtual steps of all of them, from 0 to 1.
    """

    stage: str
    spikes: np.ndarray
    neurons: int
    rate: float


def stage_of(neuron: str) -> str:
    """The stage of a neuron by its path: the first number in the name of its block; without one, the head."""
    number = re.search(r"\d", neuron.partition("/")[0])
    return f"stage {number[0]}" if number else "head"


def rasters(counts: Mapping[str, np.ndarray], levels: int, rows: int = ROWS) -> list[Raster]:
    """A raster for each stage.

    Args:
      counts: of each layer of neurons by its name, in the order in which they fire; (T, ...) counts 0..D of
        one image.
      levels: D.
      rows: neurons of a raster. They are drawn without replacement, each neuron of a stage with the same
        chance, and the same ones each time for the same network and size of image.
    """
    stages: dict[str, list[np.ndarray]] = {}
    for name, fired in counts.items():
        stages.setdefault(stage_of(name), []).append(fired.reshape(len(fired), -1))
    found = []
    for stage, layers in stages.items():
        fired = np.concatenate(layers, axis=1)  # (T, N)
        timesteps, neurons = fired.shape
        chosen = np.random.default_rng(0).permutation(neurons)[:rows]
        slots = np.stack(unroll(fired[:, np.sort(chosen)], levels), axis=1)  # (T, D, rows)
        rate = fired.sum(dtype=np.int64) / (fired.size * levels)
        found.append(Raster(stage, slots.reshape(timesteps * levels, -1).T > 0, neurons, float(rate)))
    return found
