"""What is stored of large arrays of the published dense networks: some entries, and sums that cover all."""

import math
import zlib

import numpy as np


def digest(seed: int, name: str, array: np.ndarray) -> np.ndarray:
    """Some entries, the sum, the sum of squares, and the product with drawn numbers, of an array NCHW."""
    flat = array.reshape(-1)
    count = min(400, flat.size)
    places = (np.arange(count) * flat.size // count)[::10]
    return np.concatenate([flat[places], _sums(seed, name, flat)])


def row(seed: int, name: str, tensor: np.ndarray) -> np.ndarray:
    """As `digest`, of four entries of a tensor under its PyTorch name."""
    flat = tensor.reshape(-1)
    places = np.array([0, 5, 10, 15]) * flat.size // 16
    return np.concatenate([flat[places], _sums(seed, name, flat)])


def deviation(found: np.ndarray, expected: np.ndarray, size: int) -> float:
    """The largest difference between digests, or rows, of arrays of a size, relative to what a number can be.

    Entries are measured by their root mean square and sums by the norm, so no large sum hides an entry.
    """
    norm = math.sqrt(expected[-2])
    scales = np.full(expected.shape, norm / math.sqrt(size))
    scales[-3:] = norm, norm**2, norm
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    return float(np.max(difference[difference > 0] / scales[difference > 0], initial=0))


def _sums(seed: int, name: str, flat: np.ndarray) -> np.ndarray:
    key = zlib.crc32(f"probe/{name}".encode())
    probe = np.random.default_rng([seed, key]).standard_normal(flat.size)
    return np.array([flat.sum(), (flat * flat).sum(), flat @ probe])
