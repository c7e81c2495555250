"""What the golden files of Spike-driven Transformer V2 and of SpikingResformer have in common.

Weights are drawn by patterns of their names. Of gradients of more than LARGE entries the published code has
stored each 37th, and the sum and the norm of all.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.golden import probes

TOLERANCE = 1e-10
LARGE, EACH = 2000, 37


def drawn(seed: int, name: str, shape: Sequence[int], recipe: Mapping[str, Any]) -> np.ndarray:
    """A tensor of the published checkpoint.

    Args:
      seed: of the net.
      name, shape: of the tensor.
      recipe: "bn_weight" has pattern and bounds, "bias" pattern, mean and standard deviation, of which the
        first that fits counts; "firing_rate" has bounds.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
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


def _first(patterns: Sequence[tuple[str, float, float]], name: str) -> tuple[float, float]:
    return next((low, high) for pattern, low, high in patterns if re.search(pattern, name))


def known_entries(gradient: np.ndarray) -> np.ndarray:
    """Those that the published code has stored."""
    return gradient.reshape(-1)[:: EACH if gradient.size > LARGE else 1]


def gradient_row(seed: int, name: str, gradient: np.ndarray) -> np.ndarray:
    """`probes.row` of the known entries, then sum and norm of all."""
    row = probes.row(seed, name, known_entries(gradient))
    return np.concatenate([row, [gradient.sum(), math.sqrt((gradient**2).sum())]])


def assert_met(found: Any, expected: np.ndarray, name: str, scale: float | None = None) -> None:
    """Equal up to TOLERANCE of a scale, the largest entry where none is given."""
    scale = np.abs(expected).max() if scale is None else scale
    assert np.shape(found) == np.shape(expected), name
    deviation = np.abs(np.asarray(found) - expected).max() / scale
    assert deviation <= TOLERANCE, f"{name}: {deviation}"


def assert_map_met(seed: int, name: str, array: np.ndarray, expected: np.ndarray) -> None:
    """An array (T, B, C, h, w) has its digest, up to TOLERANCE of what each number can be."""
    deviation = probes.deviation(probes.digest(seed, name, array), expected, array.size)
    assert deviation <= TOLERANCE, f"{name}: {deviation}"


def assert_tensor_met(seed: int, name: str, tensor: np.ndarray, expected: np.ndarray) -> None:
    """A tensor has its row, likewise."""
    deviation = probes.deviation(probes.row(seed, name, tensor), expected, tensor.size)
    assert deviation <= TOLERANCE, f"{name}: {deviation}"


def assert_gradient_met(seed: int, name: str, gradient: np.ndarray, expected: np.ndarray) -> None:
    """A gradient has its row, likewise."""
    found = gradient_row(seed, name, gradient)
    deviation = probes.deviation(found[:-2], expected[:-2], known_entries(gradient).size)
    assert deviation <= TOLERANCE, f"known entries of the gradient of {name}: {deviation}"
    assert_met(found[-2:], expected[-2:], f"sum and norm of the gradient of {name}", scale=expected[-1])
