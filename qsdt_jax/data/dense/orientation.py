"""Training batches of one orientation: landscape images in one array, portrait ones in its transpose."""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from qsdt_jax.data.geometry import Size
from qsdt_jax.data.sources import Example, Source

Groups = tuple[Sequence[int], ...]
"""Indices of the examples that may share a batch, each in one group."""


def orientations(sizes: Sequence[Size]) -> Groups:
    """The indices of the images that are at least as wide as tall, and those of the others."""
    portrait = np.array([height > width for height, width in sizes], bool)
    return tuple(np.flatnonzero(portrait == tall).tolist() for tall in (False, True))


def steps_per_epoch(groups: Groups, batch_size: int) -> int:
    """Batches of whole groups; what is left over of a group has no part in an epoch."""
    return sum(len(group) // batch_size for group in groups)


@dataclasses.dataclass(frozen=True)
class GroupedOrder:
    """Endless batches, each of one group, in an order that is a pure function of (seed, position).

    In every epoch each group is shuffled and cut into batches, what is left over is dropped, and the batches
    of all groups are shuffled.

    Attributes:
      source: the examples.
      groups: of their indices; one at least has `batch_size` of them.
      batch_size: B.
      seed: of the order.
    """

    source: Source
    groups: Groups
    batch_size: int
    seed: int
    _epochs: dict[int, np.ndarray] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> Example:
        return self.source[self.index(position)]

    def index(self, position: int) -> int:
        """Of the example at a position of the stream."""
        step, row = divmod(position, self.batch_size)
        epoch, batch = divmod(step, steps_per_epoch(self.groups, self.batch_size))
        return int(self._epoch(epoch)[batch, row])

    def _epoch(self, epoch: int) -> np.ndarray:
        """int (batches, B), the indices of an epoch; the last two epochs are kept."""
        found = self._epochs.get(epoch)
        if found is None:
            generator = np.random.default_rng([self.seed, epoch])
            batches = []
            for group in self.groups:
                number = len(group) // self.batch_size
                shuffled = generator.permutation(np.asarray(group, np.int64))
                batches.append(shuffled[: number * self.batch_size].reshape(number, self.batch_size))
            found = generator.permutation(np.concatenate(batches))
            # Threads read ahead into the next epoch; where two make the same, one is thrown away.
            for other in [other for other in list(self._epochs) if other < epoch - 1]:
                self._epochs.pop(other, None)
            self._epochs[epoch] = found
        return found
