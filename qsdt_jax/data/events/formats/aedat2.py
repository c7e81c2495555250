"""Recordings of a DVS128 in AEDAT 2.0, as jAER writes them, and the proof that a file is one.

The file is a line `#!AER-DAT2.0` and more that begin with '#', then per event a big-endian 32-bit address and
time stamp in microseconds. An address says which pixel fired only to who knows the camera. jAER names it in a
line `AEChip:`; older files (those of CIFAR10-DVS) lack that line, and are believed where each of their
addresses is one of a DVS128: other cameras (DAVIS240, DAVIS346) set bits that a DVS128 leaves at 0.
"""

import re

import numpy as np

from qsdt_jax.data.events.record import EVENT, check_times
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

SENSOR_SIZE = (128, 128)  # Height and width of a DVS128 in pixels.
CHIP = "DVS128"
MAGIC = b"#!AER-DAT2."
PULSE = 1 << 15
SPECIAL = 1 << 31  # What newer versions of jAER mark such events with.
RESERVED = 0xFFFF0000
# Of the addresses of a file that does not name its camera. In a larger sensor bit 15 is one of the row.
PULSE_SHARE, FREE_PULSES = 1 / 10, 10

EXPECTED = {  # What jAER says of the data, where it says it.
    re.compile(rb"Data format is\s*(.*)"): b"int32 address, int32 timestamp",
    re.compile(rb"Timestamps? tick is\s*(.*)"): b"1 us",
}
NAMED_CHIP = re.compile(rb"AEChip\s*:\s*(\S+)")


def read_aedat2(data: bytes, name: str) -> np.ndarray:
    """The events of a DVS128 recording in AEDAT 2.0.

    Of the address, bit 0 is the polarity (0 for brighter), bits 1-7 and 8-14 tell the pixel as the chip
    counts it, from the right and from below; bit 15 marks what is no event but a pulse for synchronisation,
    and is left out. Columns count from the left and rows from above, for a camera that stands upright.

    Args:
      data: content of the file.
      name: of the stream, for messages.

    Returns:
      (events,) of dtype `EVENT`, in the order of the file.

    Raises:
      CorruptRecord: another format or version, another camera, addresses or times that no DVS128 gives, a
        file that is cut off, or one without events.
    """
    start, chip_is_named = _header(data, name)
    if (len(data) - start) % 8 or len(data) == start:
        raise CorruptRecord(f"{name}: {len(data) - start} bytes of events; expected a multiple of 8")
    address, time = np.frombuffer(data, ">u4", offset=start).reshape(-1, 2).T
    seen = address & (PULSE | SPECIAL if chip_is_named else PULSE) == 0
    _check_addresses(address[seen] if chip_is_named else address, name)
    if not seen.any():
        raise CorruptRecord(f"{name}: has no events")
    pulses = len(address) - np.count_nonzero(seen)
    if not chip_is_named and pulses > FREE_PULSES + PULSE_SHARE * len(address):
        raise CorruptRecord(
            f"{name}: bit 15 of {pulses:,} of {len(address):,} addresses is set, which for a {CHIP} are "
            "pulses for synchronisation; no line AEChip: says that it was one"
        )
    address, time = address[seen], time[seen]
    check_times(time, name)
    events = np.empty(len(address), EVENT)
    events["t"] = time
    events["x"] = 127 - (address >> 1 & 0x7F)
    events["y"] = 127 - (address >> 8 & 0x7F)
    events["p"] = 1 - (address & 1)
    return events


def _header(data: bytes, name: str) -> tuple[int, bool]:
    """Where the events begin, and whether the header names the camera, which then is a DVS128."""
    if not data:
        raise CorruptRecord(f"{name}: 0 bytes of events; the file is empty")
    if not data.startswith(MAGIC):
        found = kind_of(data)
        is_what = f"is {found}" if found else "has no line of its version, as AEDAT 1 has none"
        raise CorruptRecord(f"{name}: {is_what}; expected AEDAT 2.0, whose first line is #!AER-DAT2.0")
    start, named = 0, False
    while data.startswith(b"#", start):
        end = data.find(b"\n", start)
        if end < 0:
            raise CorruptRecord(f"{name}: cut off within the header")
        line, start = data[start:end], end + 1
        if chip := NAMED_CHIP.search(line):
            found = chip[1][:60].decode(errors="replace")
            if found.rpartition(".")[2] != CHIP:
                raise CorruptRecord(f"{name}: of the camera {found}; expected one of a {CHIP}")
            named = True
        for pattern, expected in EXPECTED.items():
            if (said := pattern.search(line)) and not said[1].startswith(expected):
                found = said[0].strip()[:60].decode(errors="replace")
                raise CorruptRecord(f"{name}: says {found!r}; expected {expected.decode()!r}")
    return start, named


def _check_addresses(address: np.ndarray, name: str) -> None:
    beyond = address[address & RESERVED != 0]
    if len(beyond):
        raise CorruptRecord(
            f"{name}: has the address 0x{int(beyond[0]):08x}, and {len(beyond):,} of {len(address):,} are no "
            f"addresses of a {CHIP}, which leaves bits 16 to 31 at 0; expected a recording of that camera"
        )
