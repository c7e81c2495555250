"""Kernels in PyTorch's order of axes and in Flax's."""

import numpy as np


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """HWIO -> OIHW, IO -> OI; vectors as they are. A view."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def to_flax_layout(array: np.ndarray) -> np.ndarray:
    """The inverse."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
