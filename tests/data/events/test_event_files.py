"""Event files by their suffix, against files packed bit by bit and against tonic."""

import importlib.util

import numpy as np
import pytest

from qsdt_jax.data.events.files import read_event_file, require_readers
from qsdt_jax.data.events.formats.aedat2 import read_aedat2
from qsdt_jax.data.events.record import EVENT, check_within
from qsdt_jax.errors import CorruptRecord, UserError
from tests.data.prepare.files import aedat, five_bytes

needs_tonic = pytest.mark.skipif(importlib.util.find_spec("tonic") is None, reason="tonic is not installed")
EVENTS = [(5, 0, 33, 1), (5, 12, 7, 0), (2**23 - 1, 33, 0, 1), (2**23 - 1, 1, 2, 0)]


def test_aedat_is_read_as_ever():
    data = aedat([1, 700, 32767], [1, 2, 1 << 31])
    found = read_event_file(data, "cat/a.AEDAT")
    np.testing.assert_array_equal(found.events, read_aedat2(data, "a"))
    assert found.sensor_size == (128, 128)


def test_our_reader_of_aedat_finds_the_addresses_that_tonic_finds(tmp_path):
    io = pytest.importorskip("tonic.io")
    generator = np.random.default_rng(0)
    addresses, times = generator.integers(0, 1 << 15, 500), np.sort(generator.integers(0, 1 << 32, 500))
    data = aedat(addresses.tolist(), times.tolist())
    (tmp_path / "a.aedat").write_bytes(data)
    version, start, *_ = io.read_aedat_header_from_file(str(tmp_path / "a.aedat"))
    theirs = io.get_aer_events_from_file(str(tmp_path / "a.aedat"), version, start)
    ours = read_aedat2(data, "a")
    np.testing.assert_array_equal(ours["t"], theirs["timeStamp"])
    # How tonic takes the address of a DVS128 apart.
    np.testing.assert_array_equal(127 - ours["x"], theirs["address"] >> 1 & 0x7F)
    np.testing.assert_array_equal(127 - ours["y"], theirs["address"] >> 8 & 0x7F)
    np.testing.assert_array_equal(1 - ours["p"], theirs["address"] & 1)


@needs_tonic
def test_five_bytes_an_event():
    found = read_event_file(five_bytes(EVENTS), "3/00001.bin").events
    assert found.dtype == EVENT
    assert found.tolist() == EVENTS


@needs_tonic
def test_the_clock_of_five_bytes_overflows():
    """Row 240 is no event: what follows is 2^13 microseconds later."""
    later = [(t + 2 * 2**13, x, y, p) for t, x, y, p in EVENTS]
    overflow = [(0, 0, 240, 0)]
    data = five_bytes(EVENTS) + five_bytes(overflow * 2) + five_bytes(EVENTS)
    assert read_event_file(data, "a.bin").events.tolist() == EVENTS + later


@needs_tonic
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (five_bytes(EVENTS)[:-1], "19 bytes of events; expected a multiple of 5"),
        (b"", "0 bytes of events"),
        (five_bytes([(0, 0, 240, 0)]), "has no events"),
        (b"<!DOCTYPE html><html><body>404</body>\n\n\n", "is an HTML page; expected 5 bytes an event"),
        (aedat([1] * 5, [1] * 5), "is AEDAT 2.0; expected 5 bytes an event"),
        (five_bytes([(9 - i % 3, 0, 0, 0) for i in range(30)]), "goes back in time at 20 of 29 steps"),
    ],
)
def test_what_is_no_recording(data, reason):
    with pytest.raises(CorruptRecord, match=f"^3/1.bin: {reason}"):
        read_event_file(data, "3/1.bin")


@needs_tonic
def test_events_that_look_like_the_beginning_of_other_files():
    """Two pixels are any two bytes: "% " begins files of Prophesee."""
    first = [(20, ord("%"), ord(" "), p) for p in (0, 1)]
    assert read_event_file(five_bytes(first), "a.bin").events.tolist() == first
    assert read_event_file(five_bytes(first[1:] + EVENTS), "a.bin").events.tolist() == first[1:] + EVENTS


@needs_tonic
@pytest.mark.parametrize("line", [b"% evt 3.0\n", b"% Date 2014-01-10 13:12:13\n"])
def test_recordings_of_prophesee(line):
    with pytest.raises(CorruptRecord, match=r"^a\.bin: is a recording of Prophesee"):
        read_event_file(line + bytes(40), "a.bin")


def test_events_beyond_the_sensor():
    events = read_aedat2(aedat([(127 << 8) | (127 << 1), (107 << 8) | (117 << 1)], [1, 2]), "a")
    check_within(events, (21, 11), "a")  # Rows 0 and 20, columns 0 and 10.
    for size, told in (((20, 11), "y = 20; the sensor is 20x11"), ((21, 10), "x = 10; the sensor is 21x10")):
        with pytest.raises(CorruptRecord, match=f"^a: has an event at {told}$"):
            check_within(events, size, "a")


def test_without_tonic(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_readers(["a/1.aedat", "a/2.aedat"])
    with pytest.raises(UserError) as caught:
        require_readers(["a/1.aedat", "a/2.BIN"])
    told = "a/2.BIN is read by the library tonic, which is not installed: pip install tonic"
    assert str(caught.value) == told
