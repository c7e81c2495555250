"""Intersection over union from one confusion matrix of a whole split.

Classes that neither the labels nor the predictions have are left out of the means. A class that is predicted
and has no labelled pixel has IoU 0, which counts, and no accuracy, which does not (mmsegmentation).
"""

import jax
import jax.numpy as jnp
import numpy as np


def confusion_matrix(labels: jax.Array, classes: jax.Array, valid: jax.Array, num_classes: int) -> jax.Array:
    """Pixels by label and predicted class.

    Args:
      labels: integers of any shape; those of num_classes or more are ignored.
      classes: 0..num_classes - 1, predicted, of that shape.
      valid: whether a pixel counts, of that shape.
      num_classes: K.

    Returns:
      int32 (K, K): labels, predictions.
    """
    labels = labels.astype(jnp.int32)
    counted = valid & (labels < num_classes)
    cell = jnp.where(counted, labels * num_classes + classes, 0)
    counts = jnp.zeros(num_classes**2, jnp.int32).at[cell.reshape(-1)].add(counted.reshape(-1))
    return counts.reshape(num_classes, num_classes)


def intersection_over_union(confusion: np.ndarray) -> np.ndarray:
    """float64 (K,) in 0..1; NaN for a class that neither labels nor predictions have."""
    return _share(np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion))


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """float64 (K,): the share of a class's labelled pixels that are right; NaN for a class without any."""
    return _share(np.diag(confusion), confusion.sum(1))


def pixel_accuracy(confusion: np.ndarray) -> float:
    """The share of all labelled pixels that are right; NaN where there is none."""
    return float(_share(np.trace(confusion), confusion.sum()))


def mean_of_present(values: np.ndarray) -> float:
    """The mean of those that are numbers; NaN where none is."""
    present = values[~np.isnan(values)]
    return float(np.mean(present)) if present.size else float("nan")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.true_divide(part, whole)
