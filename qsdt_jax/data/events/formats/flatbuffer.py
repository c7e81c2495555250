"""FlatBuffers, as far as files of events need them, read so that no offset leads outside.

A buffer begins with the place of its root table and four bytes of its kind. A table begins with the distance
back to a list of places, two bytes each, at which its fields lie; 0 for one that is left out.
"""

import struct
from typing import NamedTuple


class DamagedBuffer(Exception):
    """An offset of the buffer leads outside of it."""


class Table(NamedTuple):
    """A table of a buffer, at its first byte."""

    data: bytes
    start: int

    def number(self, field: int, kind: str, default: int) -> int:
        """A number; `kind` is its letter in `struct`."""
        place = self._place(field)
        return default if place is None else _unpacked(self.data, kind, place)

    def vector(self, field: int, size: int) -> tuple[int, int]:
        """The place and the number of the elements of `size` bytes; of a field that is left out, none."""
        place = self._place(field)
        if place is None:
            return 0, 0
        place += _unpacked(self.data, "I", place)
        count = _unpacked(self.data, "I", place)
        if place + 4 + count * size > len(self.data):
            raise DamagedBuffer(f"says {count:,} elements of {size} bytes in {len(self.data):,} bytes")
        return place + 4, count

    def text(self, field: int) -> str:
        """A text; "" for a field that is left out."""
        start, length = self.vector(field, 1)
        return self.data[start : start + length].decode(errors="replace")

    def _place(self, field: int) -> int | None:
        places = self.start - _unpacked(self.data, "i", self.start)
        slot = 4 + 2 * field
        if slot + 2 > _unpacked(self.data, "H", places):
            return None
        distance = _unpacked(self.data, "H", places + slot)
        return self.start + distance if distance else None


def root_of(data: bytes) -> Table:
    """The root table of a buffer; raises DamagedBuffer, as all methods of tables do."""
    return Table(data, _unpacked(data, "I", 0))


def kind_of_buffer(data: bytes) -> bytes:
    """Its four bytes, b"EVTS" for events."""
    return data[4:8]


def _unpacked(data: bytes, kind: str, place: int) -> int:
    """The little-endian number at a place."""
    if not 0 <= place <= len(data) - struct.calcsize(f"<{kind}"):
        raise DamagedBuffer(f"leads to byte {place:,} of {len(data):,}")
    return struct.unpack_from(f"<{kind}", data, place)[0]
