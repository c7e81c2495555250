"""Draws the weights and images on which the reference outputs in this folder were computed.

The outputs are those of the published PyTorch implementation in float64. Weights are not stored: each tensor
is drawn from a generator seeded with its PyTorch name, so the importer is tested along the way.
"""

import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.interop import to_torch
from qsdt_jax.models import Classifier, QSDTransformer
from qsdt_jax.models.shapes import variable_shapes

FOLDER = Path(__file__).parent
TINY = {"channels": (16, 32, 48, 64), "depth": 4, "num_heads": 8, "num_classes": 10}


def tiny_model(**overrides) -> Classifier:
    """The net of all reference outputs, in float64."""
    return QSDTransformer(**{"dtype": jnp.float64, "param_dtype": jnp.float64, **TINY, **overrides})


def draw_weights(model: Classifier, seed: int) -> dict[str, np.ndarray]:
    """All parameters and running statistics under their PyTorch names and in PyTorch's layout."""
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variable_shapes(model))
    names = {name: value.shape for name, value in to_torch(empty).items()}
    weights = {name: _draw(name, shape, seed) for name, shape in names.items() if _kind(name) != "alpha"}
    for name, shape in names.items():
        if _kind(name) == "alpha":
            layer = weights[name.removesuffix("alpha") + "weight"]
            start = 2 * np.abs(layer).mean() / math.sqrt(7)
            weights[name] = start * _generator(name, seed).uniform(0.8, 1.2, shape)
    return weights


def _kind(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator, kind = _generator(name, seed), _kind(name)
    if kind == "weight" and len(shape) > 1:
        return generator.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    if kind in ("weight", "running_var"):
        return generator.uniform(0.5, 1.5, shape)
    if kind.startswith("layer_scale"):
        return generator.uniform(0.1, 1, shape)
    return generator.standard_normal(shape) * 0.3


def draw_batch(seed: int, step: int, batch: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images (batch, 32, 32, 3) and labels of training step `step`."""
    generator = np.random.default_rng([seed, 1000 + step])
    images = generator.standard_normal((batch, 3, 32, 32))
    return images.transpose(0, 2, 3, 1), generator.integers(0, classes, batch)


def draw_test_images(seed: int) -> np.ndarray:
    """The four test images (4, 32, 32, 3)."""
    images = np.random.default_rng([seed, 9999]).standard_normal((4, 3, 32, 32))
    return images.transpose(0, 2, 3, 1)
