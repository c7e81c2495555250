"""Recordings in AEDAT 3.1, and files that are none."""

import struct

import numpy as np
import pytest

from qsdt_jax.data.events.files import read_event_file
from qsdt_jax.data.events.formats.aedat3 import columns_of_aedat3, read_aedat3
from qsdt_jax.data.events.record import EVENT
from qsdt_jax.errors import CorruptRecord
from tests.data.events.formats.written import AEDAT3_HEADER, aedat3, aedat3_events, aedat3_packet

EVENTS = [(1000, 0, 127, 1), (1000, 127, 0, 0), (1500, 3, 5, 1)]


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptRecord) as caught:
        read_aedat3(data, "user/7")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("user/7: ")
    return str(caught.value)


def test_events_of_several_packets():
    found = read_event_file(aedat3([EVENTS[:1], [], EVENTS[1:]]), "a.aedat")
    assert found.events.dtype == EVENT and found.sensor_size == (128, 128)
    assert found.events.tolist() == [(t - 1000, x, y, p) for t, x, y, p in EVENTS]


def test_all_bits_of_an_event():
    """Fifteen bits each of column and row."""
    generator = np.random.default_rng(0)
    events = [(t, *map(int, generator.integers(0, 1 << 15, 2)), t % 2) for t in range(500)]
    found = columns_of_aedat3(aedat3([events]), "a")
    assert list(zip(*(found[field].tolist() for field in "txyp"), strict=True)) == events


def test_the_clock_overflows_after_31_bits():
    last = aedat3_packet(aedat3_events([(2**31 - 2, 1, 2, 1)]), 1, overflows=3)
    data = AEDAT3_HEADER + last + aedat3_packet(aedat3_events([(1, 1, 2, 0)]), 1, overflows=4)
    assert columns_of_aedat3(data, "a")["t"].tolist() == [4 * 2**31 - 2, 4 * 2**31 + 1]
    assert read_aedat3(data, "a").events["t"].tolist() == [0, 3]
    invalid = aedat3_packet(aedat3_events([(1, 1, 2, 1)], valid=0), 1, overflows=2, valid=0)
    data = AEDAT3_HEADER + invalid + data[len(AEDAT3_HEADER) :]
    assert columns_of_aedat3(data, "a")["t"].tolist() == [4 * 2**31 - 2, 4 * 2**31 + 1]


def test_what_is_no_valid_polarity_event_is_left_out():
    frames = aedat3_packet(bytes(2 * 50), 2, kind=2, size=50)
    motion = aedat3_packet(bytes(36), 1, kind=3, size=36, source=2)
    mixed = aedat3_events(EVENTS[:1]) + aedat3_events([(1200, 9, 9, 1)], valid=0) + aedat3_events(EVENTS[1:])
    data = AEDAT3_HEADER + frames + aedat3_packet(mixed, 4, valid=3) + motion
    assert len(read_aedat3(data, "a").events) == 3
    assert columns_of_aedat3(data, "a")["t"].tolist() == [1000, 1000, 1500]


@pytest.mark.parametrize(
    ("source", "size"),
    [
        (b"#Source 0: DVS128", (128, 128)),
        (b"#Source 3: DAVIS346Cbsi", (260, 346)),
        (b"#-Source 0: DAVIS240C\r\n#Source 1: DAVIS640", (480, 640)),
        (b"#Source 1: Dynap-se", None),
        (b"#Note", None),
    ],
)
def test_the_header_names_the_camera(source, size):
    data = aedat3([EVENTS]).replace(b"#Source 1: DVS128", source)
    assert read_aedat3(data, "a").sensor_size == size


WHOLE = aedat3([EVENTS])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty; expected AEDAT 3.1"),
        (b"#!AER-DAT3.0\r\n" + bytes(40), "is AEDAT 3.0; expected AEDAT 3.1"),
        (b"<html>", "is an HTML page"),
        (b"hello", "is something else; expected AEDAT 3.1"),
        (AEDAT3_HEADER, "has no polarity events"),
        (AEDAT3_HEADER[:-2], "has no line #!END-HEADER"),
        (AEDAT3_HEADER[:40], "has no line #!END-HEADER"),
        (WHOLE.replace(b"#!END-HEADER\r\n", b""), "has no line #!END-HEADER"),
        (WHOLE.replace(b"RAW", b"Compressed"), "is in the format 'Compressed' of AEDAT 3.1; expected RAW"),
        (WHOLE[:-1], "has a packet of 3 events of 8 bytes, of which 23 bytes are there"),
        (WHOLE + bytes(27), "cut off within the header of a packet"),
        (WHOLE + bytes(28), "has a packet of type 0 with 0 events of 0 bytes"),
        (AEDAT3_HEADER + aedat3_packet(b"", 2**31 - 1), "has a packet of 2,147,483,647 events of 8 bytes"),
        (AEDAT3_HEADER + aedat3_packet(b"", -1), "with -1 events of 8 bytes"),
        (AEDAT3_HEADER + aedat3_packet(bytes(8), 1, valid=2), "2 of them valid"),
        (AEDAT3_HEADER + aedat3_packet(bytes(8), 1, overflows=-1), "after -1 overflows"),
        (AEDAT3_HEADER + aedat3_packet(bytes(8), 1, kind=-3), "a packet of type -3"),
        (AEDAT3_HEADER + aedat3_packet(bytes(16), 1, size=16), "polarity events of 16 bytes"),
        (AEDAT3_HEADER + aedat3_packet(bytes(8), 1, offset=0), "with the time at 0; expected 8 and 4"),
        (AEDAT3_HEADER + aedat3_packet(aedat3_events([(-5, 1, 1, 1)]), 1), "has times below 0"),
        (AEDAT3_HEADER + aedat3_packet(aedat3_events([(5, 1, 1, 1)], valid=0), 1, valid=0), "has no events"),
        (AEDAT3_HEADER + aedat3_packet(b"", 0), "has no polarity events"),
        (aedat3([[(1, 128, 0, 1)]]), "has an event at x = 128; the sensor is 128x128"),
        (
            WHOLE + aedat3_packet(aedat3_events(EVENTS), 3, source=2),
            "has polarity events of the sources 1, 2; expected one camera",
        ),
        (aedat3([[(9 - t % 3, 1, 1, 1) for t in range(60)]]), "goes back in time"),
    ],
)  # fmt: skip
def test_what_is_no_recording(data, reason):
    assert reason in refusal(data)


@pytest.mark.parametrize("place", range(len(AEDAT3_HEADER), len(WHOLE)))
def test_any_damage_gives_a_recording_or_one_line(place):
    for value in (0, 1, 0x7F, 0x80, 0xFF):
        damaged = WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :]
        try:
            read_aedat3(damaged, "a")
        except CorruptRecord as error:
            assert "\n" not in str(error)


def test_the_header_of_a_packet_has_28_bytes():
    assert len(aedat3_packet(b"", 0)) == 28 == struct.calcsize("<hhiiiiii")
