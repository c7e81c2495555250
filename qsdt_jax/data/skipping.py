"""Training goes on where single records are corrupt, up to a limit.

Corrupt is what was read and is no example. A record that the disk does not give may be a good one: its source
tries it again for a while and ends with an error, which goes through.
"""

import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from absl import logging

from qsdt_jax.data.dense.orientation import Groups
from qsdt_jax.data.sources import Example, LabelledSource, Source
from qsdt_jax.errors import CorruptRecord, UserError

S = TypeVar("S", bound=Source, covariant=True)


class SkipCorrupt(Generic[S]):
    """A source in which the next record takes the place of one that cannot be read, with all that it holds.

    Which record stands at an index depends on the source alone, not on the order of reading. Each corrupt
    record is logged once. Every process counts its own, so with worker processes up to `limit` in each are
    borne, and each may log the same one.

    Args:
      source: whose records raise CorruptRecord where they cannot be read.
      limit: number of corrupt records that are borne.
      groups: indices of the records that may take each other's place; None for all.
    """

    def __init__(self, source: S, limit: int, groups: Groups | None = None):
        self._source, self._limit, self.groups = source, limit, groups
        self._corrupt: set[int] = set()
        self._lock = threading.Lock()

    @property
    def class_names(self: "SkipCorrupt[LabelledSource]") -> tuple[str, ...]:
        """Those of a source that has classes."""
        return self._source.class_names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        """The first record of its group that can be read at or after `index`, the first following the last.

        Raises:
          UserError: more than `limit` records could not be read; the message names the last of them.
        """
        tried = 0
        for position in self._candidates(index % len(self)):
            tried += 1
            try:
                return self._source[position]
            except CorruptRecord as error:
                self._count(position, error)
        raise UserError(f"none of {tried} records can be read")

    def __reduce__(self):
        return SkipCorrupt, (self._source, self._limit, self.groups)

    def _candidates(self, index: int) -> Iterator[int]:
        """The records of its group from that one on, and then those before it."""
        yield index
        group = next((group for group in self.groups or () if index in group), range(len(self)))
        place = group.index(index)
        yield from group[place + 1 :]
        yield from group[:place]

    def _count(self, position: int, error: CorruptRecord) -> None:
        with self._lock:
            if position in self._corrupt:
                return
            count = len(self._corrupt) + 1
            if count > self._limit:
                raise UserError(
                    f"{count} records cannot be read; expected at most {self._limit}; the last: {error}"
                ) from None
            self._corrupt.add(position)
        logging.warning("corrupt record %d of at most %d, skipped: %s", count, self._limit, error)
