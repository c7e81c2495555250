"""The published SpikingResformer's numbers on tiny nets, in `resformer.npz`, and what they are of.

Computed in float64 by the published code. `CASE/config` is JSON: sizes, time steps, how weights are drawn,
and names and shapes of all tensors of the published checkpoint. "t1" and "t4" differ in the time steps,
"nonsquare" has images that are no squares of the configured size, "plif_frames" learned decays and frames.
Besides, each case has

* `eval/logits` (T, B, K); `eval/features/STAGE`: digests of (T, B, C, h, w); `eval/rates`: shares of ones of
  the layers of neurons, sorted by name.
* `train/logits`, `train/loss` (label smoothing 0.1, of the mean over time), `train/loss_tet` (mean over time
  of each step's loss) and `train/rates`, of a training step; `train/grad` and `train/after`: a row a gradient
  and a running statistic, sorted by name; `train/firing`: the firing rates of attention after the step.
* `first/logits`, `first/loss`, `first/firing`: the same step of a net whose firing rates are zero.

Digests and rows are those of `probes` and `baselines`.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.models import SpikingResformer
from tests.golden.baselines import drawn
from tests.golden.recipe import FOLDER

FILE = FOLDER / "resformer.npz"
CASES = ("t1", "t4", "nonsquare", "plif_frames")


class Case:
    """A net and what it is shown."""

    def __init__(self, name: str, config: Mapping[str, Any]):
        self.name, self.config, self.seed = name, config, config["seed"]

    @property
    def model(self) -> SpikingResformer:
        """In float64."""
        config = self.config
        return SpikingResformer(
            channels=tuple(config["planes"]),
            num_heads=tuple(config["num_heads"]),
            patches=tuple(config["patch_sizes"]),
            depths=tuple(stage.count("DSSA") for stage in config["layers"]),
            group_size=config["group_size"],
            small_images=config["prologue"] == "cifar",
            num_classes=config["classes"],
            timesteps=config["T"],
            learned_decay=config["neuron"] == "PLIF",
            nominal_size=config["img_size"],
            dtype=jnp.float64,
            param_dtype=jnp.float64,
        )

    def weights(self) -> dict[str, np.ndarray]:
        """Under their published names and in PyTorch's layout."""
        names, recipe = self.config["names"], self.config["recipe"]
        return {name: drawn(self.seed, name, shape, recipe) for name, shape in names.items()}

    def test_images(self) -> np.ndarray:
        """(B, H, W, 3), or frames (B, T, H, W, 3)."""
        return self._images(np.random.default_rng([self.seed, 9999]))

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of the training step."""
        generator = np.random.default_rng([self.seed, 1000])
        return self._images(generator), generator.integers(0, self.config["classes"], self.config["batch"])

    def _images(self, generator: np.random.Generator) -> np.ndarray:
        frames = (self.config["T"],) if self.config["frames"] else ()
        images = generator.standard_normal((self.config["batch"], *frames, 3, *self.config["hw"]))
        return np.moveaxis(images, -3, -1)


def joined(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Entries of all tensors, sorted by name."""
    return np.concatenate([np.ravel(tensors[name]) for name in sorted(tensors)])


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """The entries of the file."""
    with np.load(FILE) as file:
        return dict(file)


@functools.cache
def case(name: str) -> Case:
    """One of CASES."""
    return Case(name, json.loads(str(golden()[f"{name}/config"])))
