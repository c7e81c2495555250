"""Non-maximum suppression as it is defined, in NumPy."""

import numpy as np


def box_by_box(
    boxes: np.ndarray, scores: np.ndarray, valid: np.ndarray, threshold: float, resolution: float = 1e-6
) -> np.ndarray:
    """bool (N,): from the best box down, each that no kept one covers."""
    keep = np.zeros(len(boxes), bool)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in np.argsort(-np.round(scores / resolution), kind="stable"):
        low, high = np.maximum(boxes[i, :2], boxes[:, :2]), np.minimum(boxes[i, 2:], boxes[:, 2:])
        common = np.prod(np.maximum(high - low, 0), -1)
        union = area + area[i] - common
        overlap = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        keep[i] = valid[i] and not np.any(keep & (overlap > threshold))
    return keep
