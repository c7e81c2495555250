"""Event streams of a DVS128."""

import struct

import numpy as np
import pytest

from qsdt_jax.data.events import EVENT, as_columns, read_aedat2, read_events
from qsdt_jax.errors import CorruptRecord
from tests.data.prepare.files import AEDAT_HEADER, aedat


def reference(data: bytes) -> list[tuple[int, int, int, int]]:
    """(t, x, y, p), one event after the other, bit by bit."""
    body = data[len(AEDAT_HEADER) :]
    events = []
    for start in range(0, len(body), 8):
        address, time = struct.unpack(">II", body[start : start + 8])
        bits = f"{address:015b}"
        row, column, dark = int(bits[7:14], 2), int(bits[:7], 2), int(bits[14])
        events.append((time, 127 - row, 127 - column, 1 - dark))
    return events


def test_every_address():
    generator = np.random.default_rng(0)
    addresses = generator.permutation(1 << 15).tolist()
    times = np.sort(generator.integers(0, 1 << 32, 1 << 15)).tolist()
    data = aedat(addresses, times)
    events = read_aedat2(data, "s")
    assert events.dtype == EVENT
    assert events.tolist() == reference(data)


def test_a_known_event():
    """Bits 8-14 are 3, bits 1-7 are 5, bit 0 says darker."""
    assert read_aedat2(aedat([(3 << 8) | (5 << 1) | 1], [77]), "s").tolist() == [(77, 122, 124, 0)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"# made without a version"],
        [b"#!AER-DAT2.0", b"#", b"# \xff\xfe", b"# AEChip: chip.retina.DVS128"],
    ],
)
def test_headers(lines, end):
    header = b"".join(line + end for line in lines)
    body = aedat([1, 2, 3], [4, 5, 6])[len(AEDAT_HEADER) :]
    assert read_aedat2(header + body, "s")["t"].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (aedat([1, 2], [3, 4])[:-1], "15 bytes of events"),
        (aedat([], []), "0 bytes of events"),
        (b"", "0 bytes of events"),
        (AEDAT_HEADER[:-1], "cut off within the header"),
        (b"#!AER-DAT4.0\r\n" + bytes(16), "expected AEDAT 2.0"),
        (b"#!AER-DAT3.1\r\n" + bytes(16), "expected AEDAT 2.0"),
        (
            b"#!AER-DAT2.0\r\n# AEChip: chips.davis.DAVIS240C\r\n" + bytes(16),
            "of the camera chips.davis.DAVIS240C",
        ),
        (aedat([1 << 15], [1]), "has no events"),
    ],
)
def test_what_is_no_recording(data, reason):
    with pytest.raises(CorruptRecord, match=f"^cat/7: .*{reason}"):
        read_aedat2(data, "cat/7")


def test_pulses_for_synchronisation_are_no_events():
    data = aedat([1, 1 << 15 | 1, 3], [4, 5, 6])
    assert read_aedat2(data, "s")["t"].tolist() == [4, 6]


def test_columns_give_the_stream_back():
    events = read_aedat2(aedat([1, 700, 32767], [1, 2, 1 << 31]), "s")
    columns = as_columns(events)
    assert {name: column.dtype for name, column in columns.items()} == {
        "t": np.uint32,
        "x": np.uint8,
        "y": np.uint8,
        "p": np.uint8,
    }
    np.testing.assert_array_equal(read_events(columns), events)
