"""Event streams of a dynamic vision sensor."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qsdt_jax.errors import CorruptRecord

SENSOR_SIZE = (128, 128)  # Height and width of a DVS128 in pixels.
CHIP = b"DVS128"
SPECIAL = 1 << 15
# Time in microseconds, column, row, polarity (1 for brighter).
EVENT = np.dtype([("t", "<u4"), ("x", "u1"), ("y", "u1"), ("p", "u1")])


def read_aedat2(data: bytes, name: str) -> np.ndarray:
    """The events of a DVS128 recording in AEDAT 2.0.

    The file is lines that begin with '#', then per event a big-endian 32-bit address and time stamp. Of the
    address, bit 0 is the polarity (0 for brighter), bits 1-7 and 8-14 tell the pixel as the chip counts it,
    from the right and from below; bit 15 marks what is no event but a pulse for synchronisation, and is left
    out. Columns count from the left and rows from above, for a camera that stands upright.

    Args:
      data: content of the file.
      name: of the stream, for messages.

    Returns:
      (events,) of dtype `EVENT`, in the order of the file.

    Raises:
      CorruptRecord: another version of AEDAT, another camera, a file that is cut off, or one without events.
    """
    first = data.split(b"\n", 1)[0].strip()
    if first.startswith(b"#!AER-DAT") and not first.startswith(b"#!AER-DAT2."):
        raise CorruptRecord(f"{name}: begins with {first[:20]!r}; expected AEDAT 2.0")
    start = 0
    while data.startswith(b"#", start):
        end = data.find(b"\n", start)
        if end < 0:
            raise CorruptRecord(f"{name}: cut off within the header")
        line, start = data[start:end], end + 1
        if b"AEChip:" in line and CHIP not in line:
            chip = line.split(b"AEChip:")[1].strip()[:60].decode(errors="replace")
            raise CorruptRecord(f"{name}: of the camera {chip}; expected one of a DVS128")
    if (len(data) - start) % 8 or len(data) == start:
        raise CorruptRecord(f"{name}: {len(data) - start} bytes of events; expected a multiple of 8")
    address, time = np.frombuffer(data, ">u4", offset=start).reshape(-1, 2).T
    seen = address & SPECIAL == 0
    address, time = address[seen], time[seen]
    if not len(address):
        raise CorruptRecord(f"{name}: has no events")
    events = np.empty(len(address), EVENT)
    events["t"] = time
    events["x"] = 127 - (address >> 1 & 0x7F)
    events["y"] = 127 - (address >> 8 & 0x7F)
    events["p"] = 1 - (address & 1)
    return events


def as_columns(events: np.ndarray) -> dict[str, np.ndarray]:
    """One contiguous array for each field of a stream of dtype `EVENT`, as a data set stores them."""
    return {field: np.ascontiguousarray(events[field]) for field in EVENT.names or ()}


def read_events(record: Mapping[str, Any]) -> np.ndarray:
    """The stream (events,) of dtype `EVENT` in the columns of a stored record."""
    events = np.empty(len(record["t"]), EVENT)
    for field in EVENT.names or ():
        events[field] = record[field]
    return events
