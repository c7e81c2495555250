"""Recordings in AEDAT 4, as DV of iniVation, jAER 3 and v2e write them.

The file is a line `#!AER-DAT4.0`, a header, packets, and often a table of them at the end, which is not
needed here. A packet has 8 bytes that tell its stream and its size, and a FlatBuffer with its size before it,
which may be compressed as a whole. The FlatBuffers of events, of the kind "EVTS", hold 16 bytes an event:
microseconds since 1970, column and row from the upper left, and whether it became brighter. The header tells
in XML what the streams are.

The format is described at docs.inivation.com, "AEDAT 4.0".
"""

import struct
from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np

from qsdt_jax.data.events.formats.compression import unpacked
from qsdt_jax.data.events.formats.flatbuffer import DamagedBuffer, kind_of_buffer, root_of
from qsdt_jax.data.events.limits import check_count, check_unpacked
from qsdt_jax.data.events.record import LARGEST_SENSOR, Recording, recorded
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

MAGIC = b"#!AER-DAT4.0\r\n"
COMPRESSION, TABLE_POSITION, STREAMS = range(3)  # Fields of the header.
ELEMENTS = 0  # Field of a packet of events.
METHODS = ("none", "lz4", "lz4", "zstd", "zstd")  # By their number; the second of each is the slower one.
EVENTS = b"EVTS"
EVENT4 = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1"), ("padding", "V3")])
PACKET = struct.Struct("<ii")  # Stream, and bytes of what follows.
PREFIX = struct.Struct("<I")  # Bytes of a FlatBuffer.


def read_aedat4(data: bytes, name: str) -> Recording:
    """The events of a recording, and the size of the sensor where the header says it.

    Args:
      data: content of the file.
      name: of the stream, for messages.

    Raises:
      CorruptRecord: another format or version, offsets or sizes that lead outside, a file that is cut off,
        events of several cameras, or none.
      UserError: the library that decompresses it is missing.
    """
    if not data.startswith(MAGIC):
        found = kind_of(data) or ("empty" if not data else "something else")
        raise CorruptRecord(f"{name}: is {found}; expected AEDAT 4.0, whose first line is #!AER-DAT4.0")
    try:
        start = len(MAGIC)
        head = _prefixed(data[start:])
        header = root_of(head)
        number = header.number(COMPRESSION, "i", 0)
        if not 0 <= number < len(METHODS):
            raise CorruptRecord(f"{name}: is compressed by the unknown method {number}")
        start, end = start + PREFIX.size + len(head), header.number(TABLE_POSITION, "q", -1)
        if end > len(data):
            raise CorruptRecord(
                f"{name}: says that its table lies at byte {end:,} of {len(data):,}; the file is cut off"
            )
        packets = data[start : end if end >= 0 else len(data)]
        found = list(_events(packets, METHODS[number], name))
        sensors = header.text(STREAMS)
    except DamagedBuffer as error:
        raise CorruptRecord(f"{name}: is damaged: a FlatBuffer {error}") from None
    if not sum(len(events) for _, events in found):
        raise CorruptRecord(f"{name}: has no events")
    if len(streams := sorted({stream for stream, events in found if len(events)})) > 1:
        told = ", ".join(map(str, streams))
        raise CorruptRecord(f"{name}: has events of the streams {told}; expected one camera")
    events = np.concatenate([events for _, events in found])
    columns = {field: events[field] for field in "txyp"}
    return recorded(columns, _sensor_size(sensors, streams[0]), name)


def _events(packets: bytes, method: str, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """The stream of each packet of events, and its events."""
    place, bytes_unpacked, events = 0, 0, 0
    while place < len(packets):
        if place + PACKET.size > len(packets):
            raise CorruptRecord(f"{name}: cut off within the header of a packet")
        stream, size = PACKET.unpack_from(packets, place)
        place += PACKET.size
        if size < 0 or place + size > len(packets):
            there = len(packets) - place
            raise CorruptRecord(
                f"{name}: has a packet of {size:,} bytes, of which {there:,} are there; the file is cut off"
            )
        content = unpacked(packets[place : place + size], method, name)
        place, bytes_unpacked = place + size, bytes_unpacked + len(content)
        check_unpacked(bytes_unpacked, place, name)
        content = _prefixed(content)
        if kind_of_buffer(content) == EVENTS:
            start, count = root_of(content).vector(ELEMENTS, EVENT4.itemsize)
            events += count
            check_count(events, name)
            yield stream, np.frombuffer(content, EVENT4, count, start)


def _prefixed(data: bytes) -> bytes:
    """The FlatBuffer whose size comes first."""
    if len(data) < PREFIX.size:
        raise DamagedBuffer(f"of {len(data)} bytes has no size")
    size = PREFIX.unpack_from(data)[0]
    if len(data) < PREFIX.size + size:
        raise DamagedBuffer(f"says {size:,} bytes, of which {len(data) - PREFIX.size:,} are there")
    return data[PREFIX.size : PREFIX.size + size]


def _sensor_size(streams: str, stream: int) -> tuple[int, int] | None:
    """What the XML of a header says of a stream; None where it does not say it."""
    try:
        root = ElementTree.fromstring(streams)
    except ElementTree.ParseError:
        return None
    of_stream = (node for node in root.iter("node") if node.get("name") == str(stream))
    said = {attr.get("key"): attr.text or "" for node in of_stream for attr in node.iter("attr")}
    sides = [said.get(key, "").strip() for key in ("sizeY", "sizeX")]
    if not all(side.isdecimal() and len(side) < 6 and 1 <= int(side) <= LARGEST_SENSOR for side in sides):
        return None
    height, width = map(int, sides)
    return height, width
