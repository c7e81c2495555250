"""Evaluation of a whole split over all devices: sums that add up, and rows that are gathered.

Most metrics are functions of sums (accuracy, a mean loss, a confusion matrix). Some are not, as the mean
average precision, which ranks the detections of all images: these need one row of each example.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from qsdt_jax.devices import gather_over_devices, sum_over_devices

MASK = "mask"
Summary = TypeVar("Summary")


class Scored(NamedTuple):
    """What a batch adds to the score of its split.

    Attributes:
      sums: arrays of any shape, to be added up over the split; padding is left out already.
      rows: (B, ...) arrays of one row for each row of the batch, to be gathered over the split in the
        order of its batches; `evaluate_split` drops padding. "mask" is no name of theirs.
    """

    sums: Mapping[str, Any] = {}
    rows: Mapping[str, Any] = {}


def over_devices(scored: Scored, mask: jax.Array) -> Scored:
    """What all devices of a step have scored together, with the mask (B,) among the rows if there are any."""
    if MASK in scored.rows:
        raise ValueError(f"{MASK!r} tells rows from padding; what a task scores needs another name")
    rows = {**scored.rows, MASK: mask} if scored.rows else {}
    return Scored(sum_over_devices(dict(scored.sums)), gather_over_devices(rows))


def evaluate_split(
    step: Callable[[Any], Scored],
    batches: Iterable[Any],
    summarize: Callable[[Scored], Summary],
) -> Summary:
    """What a whole split scores, e.g. its metrics.

    Args:
      step: from a batch to its sums and rows, as `over_devices` gives them.
      batches: the split, each example once; rows whose "mask" is 0 are padding.
      summarize: of the sums and rows of the split, as NumPy arrays without padding.
    """
    sums: dict[str, Any] = {}
    rows: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        scored = step(batch)
        for name, value in scored.sums.items():
            # On the host in 64 bits: counts stay exact for any split.
            sums[name] = sums.get(name, 0) + np.asarray(value).astype(_wide(value))
        found = {name: np.asarray(values) for name, values in scored.rows.items()}
        if found:
            examples = found.pop(MASK) > 0
            for name, values in found.items():
                rows.setdefault(name, []).append(values[examples])
    return summarize(Scored(sums, {name: np.concatenate(parts) for name, parts in rows.items()}))


def _wide(value: Any) -> type:
    return np.int64 if np.issubdtype(np.asarray(value).dtype, np.integer) else np.float64
