"""A digest of a large array that fits a repository: every third entry, and sums that cover the rest."""

import numpy as np

LARGE = 1000


def digest(array: np.ndarray) -> np.ndarray:
    """A vector that changes with any entry; the array itself, flattened, where it is small.

    Args:
      array: (O, ...) in PyTorch's layout, output channels first.

    Returns:
      Every third entry, the sum of each output channel, and the sum over the output channels.
    """
    if array.size <= LARGE:
        return array.reshape(-1)
    rows = array.reshape(array.shape[0], -1)
    return np.concatenate([array.reshape(-1)[::3], rows.sum(1), rows.sum(0)])
