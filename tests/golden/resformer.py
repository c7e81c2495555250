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
"""

import functools
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.models import SpikingResformer
from tests.golden import probes
from tests.golden.recipe import FOLDER

FILE = FOLDER / "resformer.npz"
CASES = ("t1", "t4", "nonsquare", "plif_frames")
LARGE, EACH = 2000, 37  # Of larger gradients the file knows each 37th entry, and sum and norm.


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
        return {name: self._draw(name, tuple(shape)) for name, shape in self.config["names"].items()}

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

    def _draw(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        generator = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        recipe = self.config["recipe"]
        match name.rsplit(".", 1)[-1]:
            case "weight" if len(shape) > 1:
                return generator.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
            case "weight":
                return generator.uniform(*_first(recipe["bn_weight"], name), shape)
            case "bias":
                mean, deviation = _first(recipe["bias"], name)
                return generator.standard_normal(shape) * deviation + mean
            case "running_mean":
                return generator.standard_normal(shape) * 0.3
            case "running_var":
                return generator.uniform(0.5, 1.5, shape)
            case "firing_rate_x" | "firing_rate_attn":
                return generator.uniform(*recipe["firing_rate"], shape)
            case "w":
                return np.asarray(generator.standard_normal() * 0.3)
        raise AssertionError(f"nobody has said how {name} is drawn")


def _first(patterns: Iterable[tuple[str, float, float]], name: str) -> tuple[float, float]:
    return next((low, high) for pattern, low, high in patterns if re.search(pattern, name))


def joined(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Entries of all tensors, sorted by name."""
    return np.concatenate([np.ravel(tensors[name]) for name in sorted(tensors)])


def digest(seed: int, name: str, array: np.ndarray) -> np.ndarray:
    """As `probes.digest`, each number by what it can be: entries by their root mean square, sums by the norm.

    So no large sum hides the deviation of an entry. The last number is the norm itself.
    """
    return _by_size(probes.digest(seed, name, array), array)


def row(seed: int, name: str, tensor: np.ndarray) -> np.ndarray:
    """As `probes.row`, likewise."""
    return _by_size(probes.row(seed, name, tensor), tensor)


def gradient_row(seed: int, name: str, known: np.ndarray, total: float, norm: float) -> np.ndarray:
    """A row of the known entries, then sum and norm of all."""
    return np.concatenate([row(seed, name, known), [total / norm, norm]])


def known_entries(gradient: np.ndarray) -> np.ndarray:
    """Those that the file knows."""
    return gradient.reshape(-1)[:: EACH if gradient.size > LARGE else 1]


def _by_size(numbers: np.ndarray, array: np.ndarray) -> np.ndarray:
    entries, (total, squares, probed) = numbers[:-3], numbers[-3:]
    norm = math.sqrt(squares)
    if norm == 0:  # Of a layer that never fires.
        return np.zeros_like(numbers)
    return np.concatenate([entries / (norm / math.sqrt(array.size)), [total / norm, probed / norm, norm]])


@functools.cache
def golden() -> dict[str, np.ndarray]:
    """The entries of the file."""
    with np.load(FILE) as file:
        return dict(file)


@functools.cache
def case(name: str) -> Case:
    """One of CASES."""
    return Case(name, json.loads(str(golden()[f"{name}/config"])))
