"""Recordings in AEDAT 4, written with the library of FlatBuffers, and files that are none."""

import builtins
import struct

import numpy as np
import pytest

from qsdt_jax.data.events.files import read_event_file
from qsdt_jax.data.events.formats import compression
from qsdt_jax.data.events.formats.aedat4 import read_aedat4
from qsdt_jax.errors import CorruptRecord, UserError
from tests.data.events.formats.written import XML, aedat4, aedat4_events, aedat4_header

NOW = 1_663_249_605_734_020  # Microseconds since 1970.
EVENTS = [(NOW, 0, 259, 1), (NOW + 7, 345, 0, 0), (NOW + 9, 3, 5, 1)]
PACKET = aedat4_events(EVENTS)
WHOLE = aedat4([(0, PACKET)])
START = len(WHOLE) - len(PACKET) - 8  # Of the packets.


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptRecord) as caught:
        read_aedat4(data, "cat/7")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("cat/7: ")
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["aedat", "aedat4"])
def test_events_of_several_packets(suffix):
    """Of a stream of frames beside them nothing is taken."""
    frame = aedat4_events([(1, 2, 3, 1)], kind=b"FRME")
    data = aedat4([(0, aedat4_events(EVENTS[:2])), (1, frame), (0, aedat4_events(EVENTS[2:]))])
    found = read_event_file(data, f"a.{suffix}")
    assert found.sensor_size == (260, 346)
    assert found.events.tolist() == [(t - NOW, x, y, p) for t, x, y, p in EVENTS]


def test_many_events():
    generator = np.random.default_rng(0)
    events = [
        (t, int(generator.integers(346)), int(generator.integers(260)), int(generator.integers(2)))
        for t in range(2000)
    ]
    parts = [(0, aedat4_events(events[i : i + 300])) for i in range(0, 2000, 300)]
    assert read_aedat4(aedat4(parts), "a").events.tolist() == events


def test_the_table_at_the_end_is_not_taken_for_packets():
    data = aedat4([(0, PACKET)], table=b"\xff" * 50)
    assert len(read_aedat4(data, "a").events) == 3
    assert len(read_aedat4(aedat4([(0, PACKET)], table=b""), "a").events) == 3


def compressed(method: int, content: bytes) -> bytes:
    if method < 3:
        return pytest.importorskip("lz4.frame").compress(content, compression_level=9 * (method == 2))
    return pytest.importorskip("zstandard").ZstdCompressor(level=3 + 9 * (method == 4)).compress(content)


@pytest.mark.parametrize("method", [1, 2, 3, 4])
def test_compressed_packets(method):
    data = aedat4([(0, compressed(method, PACKET))], compression=method)
    np.testing.assert_array_equal(read_aedat4(data, "a").events, read_aedat4(WHOLE, "a").events)


@pytest.mark.parametrize(("method", "what"), [(1, "LZ4"), (3, "Zstandard")])
def test_damaged_frames(method, what, monkeypatch):
    frame = compressed(method, aedat4_events([(t, t % 7, t % 5, 1) for t in range(400)]))
    assert f"no frame of {what}" in refusal(aedat4([(0, PACKET)], compression=method))
    told = refusal(aedat4([(0, frame[: len(frame) // 2])], compression=method))
    assert "cut off" in told or "damaged" in told
    monkeypatch.setattr(compression, "LARGEST", 1000)
    assert f"a frame of {what} of more than 1,000 bytes" in refusal(aedat4([(0, frame)], compression=method))


@pytest.mark.parametrize(("method", "package"), [(1, "lz4"), (4, "zstandard")])
def test_without_the_library_that_decompresses(method, package, monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        "importlib.import_module", lambda name: real("no_such_module_" + name.replace(".", "_"))
    )
    with pytest.raises(UserError) as caught:
        read_event_file(aedat4([(0, PACKET)], compression=method), "a.aedat4")
    told = f"a.aedat4 is read by the library {package}, which is not installed: pip install {package}"
    assert str(caught.value) == told and not isinstance(caught.value, CorruptRecord)


@pytest.mark.parametrize(
    "xml",
    [
        None,
        "",
        "no xml",
        XML[:-3],
        XML.replace("346", "-346"),
        XML.replace("260", "2" * 50),
        XML.replace('"0"', '"5"'),
    ],
)
def test_headers_that_do_not_tell_the_sensor(xml):
    found = read_aedat4(aedat4([(0, PACKET)], xml=xml), "a")
    assert found.sensor_size is None and len(found.events) == 3


def patched(place: int, *words: int) -> bytes:
    """The recording with other numbers of 32 bits from a byte of its packets on."""
    data = bytearray(WHOLE)
    struct.pack_into(f"<{len(words)}i", data, START + place, *words)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty; expected AEDAT 4.0"),
        (b"#!AER-DAT3.1\r\n", "is AEDAT 3.1; expected AEDAT 4.0"),
        (b"#!AER-DAT4.0\r\n", "is damaged: a FlatBuffer of 0 bytes has no size"),
        (WHOLE[:30], "is damaged: a FlatBuffer says"),
        (WHOLE[:START], "has no events"),
        (WHOLE[:-1], "has a packet of"),
        (WHOLE + b"\0\0\0\0", "cut off within the header of a packet"),
        (aedat4([(0, aedat4_events([]))]), "has no events"),
        (aedat4([(0, PACKET)], compression=5), "is compressed by the unknown method 5"),
        (aedat4([(0, PACKET), (2, PACKET)]), "has events of the streams 0, 2; expected one camera"),
        (aedat4([(0, PACKET)], table=b"").replace(PACKET, b""), "the file is cut off"),
        (aedat4([(0, aedat4_events([(1, 346, 0, 1)]))]), "has an event at x = 346; the sensor is 260x346"),
        (aedat4([(0, aedat4_events([(1, -1, 0, 1)]))]), "has an event at x = -1"),
        (patched(4, -1), "has a packet of -1 bytes"),
        (patched(4, 2**31 - 1), "has a packet of 2,147,483,647 bytes"),
        (patched(8, 2**30), "a FlatBuffer says 1,073,741,824 bytes"),
        (patched(12, 2**30), "a FlatBuffer leads to byte"),
        (patched(12, -4), "a FlatBuffer leads to byte"),
        (aedat4([(0, PACKET[:4] + b"\x04\0\0\0EVTS")]), "a FlatBuffer says"),
    ],
)
def test_what_is_no_recording(data, reason):
    assert reason in refusal(data)


def test_any_damage_gives_a_recording_or_one_line():
    """Each byte of the header and of the packet."""
    head = aedat4_header(0, -1, XML)
    places = [*range(14, 14 + 48), *range(len(head) - 8, len(WHOLE))]
    assert places[-1] == len(WHOLE) - 1
    refused = 0
    for place in places:
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            try:
                read_aedat4(WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :], "a")
            except CorruptRecord as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 100


def test_every_cut():
    for end in range(14, len(WHOLE), 3):
        refusal(WHOLE[:end])
