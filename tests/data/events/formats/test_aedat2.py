"""Recordings of a DVS128 in AEDAT 2.0, and files that are none."""

import gzip
import struct

import numpy as np
import pytest

from qsdt_jax.data.events.formats.aedat2 import read_aedat2
from qsdt_jax.data.events.record import EVENT
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
        [b"#!AER-DAT2.0"],
        [b"#!AER-DAT2.0", b"#", b"# \xff\xfe", b"# AEChip: chip.retina.DVS128"],
        [b"#!AER-DAT2.0", b"# Data format is int32 address, int32 timestamp (8 bytes total), repeated", b"#"],
        [b"#!AER-DAT2.0", b"# Timestamps tick is 1 us", b"# created Thu Sep 10 10:00:00 CEST 2015"],
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
        (b"#!AER-DAT4.0\r\n" + bytes(16), "is AEDAT 4.0; expected AEDAT 2.0"),
        (b"#!AER-DAT3.1\r\n" + bytes(16), "is AEDAT 3.1; expected AEDAT 2.0"),
        (b"#!AER-DAT1.0\r\n" + bytes(18), "is AEDAT 1.0; expected AEDAT 2.0"),
        (bytes(16), "has no line of its version, as AEDAT 1 has none; expected AEDAT 2.0"),
        (b"# made without a version\r\n" + bytes(16), "has no line of its version"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><title>404</title>", "is an HTML page; expected AEDAT 2.0"),
        (gzip.compress(aedat([1], [1])), "is gzip; expected AEDAT 2.0"),
        (b"PK\x03\x04" + bytes(28), "is a zip archive; expected AEDAT 2.0"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"#!AER-DAT2.0\r\n# Data format is int16 address, int32 timestamp\r\n" + bytes(16), "int16 address"),
        (b"#!AER-DAT2.0\r\n# Timestamps tick is 1 ms\r\n" + bytes(16), "says 'Timestamps tick is 1 ms'"),
        (b"#!AER-DAT2.0\r\n# AEChip: a.NotDVS128\r\n" + bytes(16), "of the camera a.NotDVS128"),
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


# What a file has to prove, for its header does not name the camera

GENERATOR = np.random.default_rng(0)
NAMED = AEDAT_HEADER + b"# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n"


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptRecord) as caught:
        read_aedat2(data, "cat/7")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def body(addresses, times) -> bytes:
    return aedat(list(map(int, addresses)), list(map(int, times)))[len(AEDAT_HEADER) :]


@pytest.mark.parametrize(("height", "width"), [(180, 240), (260, 346), (128, 128)])
@pytest.mark.parametrize("header", [AEDAT_HEADER, NAMED], ids=["unnamed", "named wrongly"])
def test_a_simulator_that_writes_the_layout_of_a_davis(height, width, header):
    """Row from bit 22 on, column from bit 12 on, polarity in bit 11."""
    y, x, p = (GENERATOR.integers(0, size, 300) for size in (height, width, 2))
    told = refusal(header + body(y << 22 | x << 12 | p << 11, range(300)))
    assert "are no addresses of a DVS128, which leaves bits 16 to 31 at 0" in told


def test_one_foreign_address_is_enough():
    """A camera whose first events happen to lie in row 0."""
    addresses = [*range(200), 1 << 22]
    assert "has the address 0x00400000, and 1 of 201" in refusal(AEDAT_HEADER + body(addresses, range(201)))


@pytest.mark.parametrize("rows", [180, 256])
def test_a_larger_sensor_in_sixteen_bits(rows):
    """What is a pulse for a DVS128 is half of the picture there."""
    y, x, p = (GENERATOR.integers(0, size, 300) for size in (rows, 128, 2))
    data = body(y << 8 | x << 1 | p, range(300))
    assert "which for a DVS128 are pulses for synchronisation" in refusal(AEDAT_HEADER + data)
    assert len(read_aedat2(NAMED + data, "a")) == (y < 128).sum()


def test_special_events_of_newer_versions_are_no_events():
    data = body([1, 1 << 31 | 5, 3, 1 << 31 | 1 << 20], [4, 5, 6, 7])
    assert read_aedat2(NAMED + data, "a")["t"].tolist() == [4, 6]
    assert "bits 16 to 31" in refusal(AEDAT_HEADER + data)


@pytest.mark.parametrize("headers", [b"", b"#!AER-DAT2.0\r\n"])
def test_the_six_bytes_of_aedat_1(headers):
    addresses = GENERATOR.integers(0, 1 << 15, 400)
    data = b"".join(struct.pack(">HI", a, 10 * t) for t, a in enumerate(addresses.tolist(), 1))
    assert "expected" in refusal(headers + data)


def test_times_out_of_order():
    times = GENERATOR.permutation(1000)
    assert "goes back in time at" in refusal(AEDAT_HEADER + body(range(1000), times))


def test_a_clock_that_overflows_or_is_set_back():
    times = [2**32 - 2, 2**32 - 1, 0, 1, 2, 3, 0, 1, 2, 3]
    assert read_aedat2(aedat([1] * 10, times), "a")["t"].tolist() == times


def test_zeros_as_a_disk_leaves_them():
    assert "has 30,000 events in 1 microseconds" in refusal(AEDAT_HEADER + bytes(8 * 30_000))


def test_times_in_milliseconds():
    """200,000 events in 1.3 s, as CIFAR10-DVS has them."""
    times = np.sort(GENERATOR.integers(0, 1_300_000, 200_000))
    addresses = GENERATOR.integers(0, 1 << 15, 200_000)
    words = np.stack([addresses, times], axis=1).astype(">u4")
    assert len(read_aedat2(AEDAT_HEADER + words.tobytes(), "a")) == 200_000
    words[:, 1] //= 1000
    assert "expected times in microseconds" in refusal(AEDAT_HEADER + words.tobytes())
