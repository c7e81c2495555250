"""Which examples the batches of an evaluation hold: a pure function of the sizes of its images.

The examples of a batch have arrays of one shape, so those of different buckets come in different batches. All
of one shape are the special case of one group.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from qsdt_jax.cpus import usable_cpus
from qsdt_jax.data.dense.buckets import Buckets, grouped
from qsdt_jax.data.geometry import Size
from qsdt_jax.data.sources import Source
from qsdt_jax.errors import UserError
from qsdt_jax.progress import Progress

QUIET_SECONDS = 3.0  # Of reading sizes, before progress is shown.


@dataclasses.dataclass(frozen=True)
class Plan:
    """Batches of examples, one group after the other.

    Attributes:
      groups: indices of the examples that may share a batch.
      batch_size: B.
    """

    groups: tuple[Sequence[int], ...]
    batch_size: int

    @property
    def steps(self) -> int:
        """Number of batches."""
        return self._ends[-1] if self._ends else 0

    def batch(self, step: int) -> Sequence[int]:
        """The indices of the examples of a batch; fewer than B in the last one of a group."""
        group = int(np.searchsorted(self._ends, step, side="right"))
        first = (step - (self._ends[group - 1] if group else 0)) * self.batch_size
        return self.groups[group][first : first + self.batch_size]

    @property
    def _ends(self) -> list[int]:
        """The step after the last one of each group."""
        return list(itertools.accumulate(-(-len(group) // self.batch_size) for group in self.groups))


def groups_of(source: Source, buckets: Buckets | None, count: int) -> tuple[Sequence[int], ...]:
    """The first `count` examples in groups, one for each bucket.

    Args:
      source: the examples; a `SizedSource` where there are buckets.
      buckets: None for one group of all.
      count: of the examples.

    Raises:
      UserError: no bucket holds an image; the source does not tell sizes.
    """
    if buckets is None:
        return (range(count),)
    return grouped([buckets.of(size) for size in sizes_of(source, count)])


def sizes_of(source: Source, count: int) -> list[Size]:
    """(height, width) of the first `count` images; raises UserError where the source does not tell them."""
    size_of = getattr(source, "size_of", None)
    if size_of is None:
        raise UserError(
            f"{type(source).__name__} does not tell the sizes of its images; expected a method size_of(index)"
        )
    sizes, progress, start = [], None, time.monotonic()
    with ThreadPoolExecutor(usable_cpus()) as pool:
        try:
            for size in pool.map(size_of, range(count)):
                sizes.append(size)
                if progress is None and time.monotonic() - start > QUIET_SECONDS:
                    progress = Progress(count, len(sizes), 1, step="image")
                if progress is not None:
                    progress.update(len(sizes), "sizes read")
        finally:
            pool.shutdown(cancel_futures=True)
            if progress is not None:
                progress.close()
    return sizes
