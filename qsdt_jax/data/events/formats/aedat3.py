"""Recordings in AEDAT 3.1, as cAER writes them: those of DVS128-Gesture, for one.

The file is lines that begin with '#', the first `#!AER-DAT3.1`, the last `#!END-HEADER`, and then packets,
all of it little-endian: a header of 28 bytes, and as many events of one type and size as it says. A polarity
event, type 1, has 8 bytes: bit 0 says that it is valid, bit 1 that it became brighter, bits 2-16 tell the
row and bits 17-31 the column, from the upper left; then 31 bits of microseconds, whose overflows the header
of the packet counts. Packets of other types (frames, samples of motion, triggers) are passed over.

The format is described at docs.inivation.com, "AEDAT 3.1".
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from qsdt_jax.data.events.record import LARGEST_SENSOR, Recording, as_events, check_times, recorded
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

MAGIC = b"#!AER-DAT3.1"
END = b"#!END-HEADER"
FORMAT = re.compile(rb"#Format:\s*(\S*)")
SOURCE = re.compile(rb"#Source \d+:\s*(\S+)")  # With a minus before its name it was the source of a copy.
SENSORS = {  # (height, width) of the cameras that a header may name, by the beginning of the name.
    b"DVS128": (128, 128),
    b"DAVIS128": (128, 128),
    b"DAVIS240": (180, 240),
    b"DAVIS346": (260, 346),
    b"DAVIS640": (480, 640),
}
# Type, source, bytes of an event, place of its time, overflows of the clock, capacity, events, valid ones.
HEADER = struct.Struct("<hhiiiiii")
SLACK = 1 / 10  # Share of an interval that may lie behind the last event, when nothing moves any more.
POLARITY, POLARITY_BYTES, TIME_OFFSET, CLOCK_BITS = 1, 8, 4, 31


class Packet(NamedTuple):
    """A packet of polarity events; `words` are uint32 (events, 2), their data and time."""

    source: int
    overflows: int
    words: np.ndarray


def read_aedat3(data: bytes, name: str) -> Recording:
    """The polarity events of a recording; raises CorruptRecord as `columns_of_aedat3`."""
    return recorded(columns_of_aedat3(data, name), _sensor_size(data), name)


def read_interval(data: bytes, interval: tuple[int, int], name: str) -> np.ndarray:
    """The events of a part of a recording; their times count from its beginning.

    Args:
      data: content of the file.
      interval: its beginning and its end, which is not in it, in microseconds of the camera's clock.
      name: of the stream, for messages.

    Returns:
      (events,) of dtype `EVENT`, in the order of the file.

    Raises:
      CorruptRecord: as `columns_of_aedat3`; the recording ends before the interval, or has no event in it.
    """
    columns, (start, end) = columns_of_aedat3(data, name), interval
    times = columns["t"]
    if not len(times):
        raise CorruptRecord(f"{name}: has no events")
    check_times(times, name)
    first, last = int(times.min()), int(times.max())
    if start > last or end > last + SLACK * (end - start):
        raise CorruptRecord(
            f"{name}: is labelled from {start:,} to {end:,} microseconds, and its recording goes "
            f"from {first:,} to {last:,}"
        )
    within = (times >= start) & (times < end)
    part = {field: column[within] for field, column in columns.items()}
    if not within.any():
        raise CorruptRecord(f"{name}: has no events from {start:,} to {end:,} microseconds")
    sensor_size = _sensor_size(data) or (LARGEST_SENSOR, LARGEST_SENSOR)
    return as_events({**part, "t": part["t"] - start}, sensor_size, name)


def columns_of_aedat3(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The valid polarity events of a recording, by the clock of the camera.

    Args:
      data: content of the file.
      name: of the stream, for messages.

    Returns:
      t, x, y and p, int64 (events,) each, in the order of the file; t in microseconds of any size.

    Raises:
      CorruptRecord: another format or version, a header of a packet that cannot be, a file that is cut off,
        events of several cameras, or none.
    """
    packets = list(_packets(data, _start(data, name), name))
    if not packets:
        raise CorruptRecord(f"{name}: has no polarity events")
    if len(sources := sorted({packet.source for packet in packets})) > 1:
        found = ", ".join(map(str, sources))
        raise CorruptRecord(f"{name}: has polarity events of the sources {found}; expected one camera")
    words = np.concatenate([packet.words for packet in packets])
    lengths = [len(packet.words) for packet in packets]
    overflows = np.repeat(np.array([packet.overflows for packet in packets], np.int64), lengths)
    valid = words[:, 0] & 1 == 1
    what, clock = words[valid].astype(np.int64).T
    return {
        "t": (overflows[valid] << CLOCK_BITS) + clock,
        "x": what >> 17,
        "y": what >> 2 & 0x7FFF,
        "p": what >> 1 & 1,
    }


def _start(data: bytes, name: str) -> int:
    """Where the packets begin."""
    if not data.startswith(MAGIC):
        found = kind_of(data) or ("empty" if not data else "something else")
        raise CorruptRecord(f"{name}: is {found}; expected AEDAT 3.1, whose first line is #!AER-DAT3.1")
    start = 0
    while data.startswith(b"#", start):
        end = data.find(b"\n", start)
        if end < 0:
            break
        line, start = data[start:end], end + 1
        if line.startswith(END):
            return start
        if (said := FORMAT.match(line)) and said[1] != b"RAW":
            found = said[1][:60].decode(errors="replace")
            raise CorruptRecord(f"{name}: is in the format {found!r} of AEDAT 3.1; expected RAW")
    raise CorruptRecord(f"{name}: has no line #!END-HEADER; the file is cut off, or no AEDAT 3.1")


def _packets(data: bytes, start: int, name: str) -> Iterator[Packet]:
    """Those of polarity events, proven."""
    while start < len(data):
        if start + HEADER.size > len(data):
            raise CorruptRecord(f"{name}: cut off within the header of a packet")
        kind, source, size, time_offset, overflows, _, events, valid = HEADER.unpack_from(data, start)
        start += HEADER.size
        if kind < 0 or size < 1 or overflows < 0 or not 0 <= valid <= events:
            raise CorruptRecord(
                f"{name}: has a packet of type {kind} with {events} events of {size} bytes, {valid} of them "
                f"valid, after {overflows} overflows, which cannot be; the file is damaged"
            )
        if kind == POLARITY and (size, time_offset) != (POLARITY_BYTES, TIME_OFFSET):
            raise CorruptRecord(
                f"{name}: has polarity events of {size} bytes with the time at {time_offset}; "
                f"expected {POLARITY_BYTES} and {TIME_OFFSET}"
            )
        end = start + size * events
        if end > len(data):
            raise CorruptRecord(
                f"{name}: has a packet of {events:,} events of {size} bytes, of which {len(data) - start:,} "
                "bytes are there; the file is cut off"
            )
        if kind == POLARITY and events:
            words = np.frombuffer(data, "<u4", 2 * events, start).reshape(-1, 2)
            if int(words[:, 1].max()) >> CLOCK_BITS:
                raise CorruptRecord(f"{name}: has times below 0; expected {CLOCK_BITS} bits of microseconds")
            yield Packet(source, overflows, words)
        start = end


def _sensor_size(data: bytes) -> tuple[int, int] | None:
    """What the header tells of the camera, if it names one that is known."""
    found = SOURCE.search(data[: data.find(END)])
    known = (size for camera, size in SENSORS.items() if found and found[1].startswith(camera))
    return next(known, None)
