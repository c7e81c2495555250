"""Evaluation of a whole split: sums of batches, added up exactly in order."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np


def evaluate_split(
    step: Callable[[Any], Mapping[str, Any]],
    batches: Iterable[Any],
    summarize: Callable[[Mapping[str, Any]], dict[str, float]],
) -> dict[str, float]:
    """Metrics of a split.

    Args:
      step: from a batch to its sums, padding left out.
      batches: the split, each example once.
      summarize: from the sums of the split to its metrics.
    """
    total: dict[str, Any] = {}
    for batch in batches:
        for name, value in step(batch).items():
            # On the host in 64 bits: counts stay exact for any split.
            total[name] = total.get(name, 0) + np.asarray(value).astype(_wide(value))
    return summarize(total)


def _wide(value: Any) -> type:
    return np.int64 if np.issubdtype(np.asarray(value).dtype, np.integer) else np.float64
