"""Recordings written byte by byte, as the public descriptions of the formats say."""

import io
import struct
from collections.abc import Iterable, Sequence

import flatbuffers
import pytest

Event = tuple[int, int, int, int]
"""Time, column, row, polarity."""

AEDAT3_HEADER = (
    b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n"
    b"#Start-Time: 2016-04-07 14:57:42 (TZ-0700)\r\n#!END-HEADER\r\n"
)


def aedat3_packet(
    content: bytes, events: int, *, kind: int = 1, source: int = 1, size: int = 8, offset: int = 4,
    overflows: int = 0, valid: int | None = None,
) -> bytes:  # fmt: skip
    """A packet of AEDAT 3.1 with any header."""
    counts = events, events, events if valid is None else valid
    return struct.pack("<hhiiiiii", kind, source, size, offset, overflows, *counts) + content


def aedat3_events(events: Iterable[Event], valid: int = 1) -> bytes:
    """Polarity events."""
    return b"".join(struct.pack("<Ii", x << 17 | y << 2 | p << 1 | valid, t) for t, x, y, p in events)


def aedat3(packets: Iterable[Sequence[Event]]) -> bytes:
    """A recording of packets of polarity events."""
    return AEDAT3_HEADER + b"".join(aedat3_packet(aedat3_events(p), len(p)) for p in packets)


XML = """<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/">
<node name="0" path="/mainloop/Recorder/outInfo/0/"><attr key="typeIdentifier" type="string">EVTS</attr>
<node name="info" path="/mainloop/Recorder/outInfo/0/info/"><attr key="sizeX" type="int">346</attr>
<attr key="sizeY" type="int">260</attr></node></node>
<node name="1" path="/mainloop/Recorder/outInfo/1/"><attr key="typeIdentifier" type="string">FRME</attr>
<node name="info" path="/mainloop/Recorder/outInfo/1/info/"><attr key="sizeX" type="int">9</attr>
<attr key="sizeY" type="int">8</attr></node></node></node></dv>"""


def aedat4_events(events: Sequence[Event], kind: bytes = b"EVTS") -> bytes:
    """A FlatBuffer of events with its size before it, made by the library of FlatBuffers."""
    builder = flatbuffers.Builder(64)
    builder.StartVector(16, len(events), 8)
    for t, x, y, p in reversed(events):
        builder.Prep(8, 16)
        builder.Pad(3)
        builder.PrependBool(bool(p))
        builder.PrependInt16(y)
        builder.PrependInt16(x)
        builder.PrependInt64(t)
    vector = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.FinishSizePrefixed(builder.EndObject(), file_identifier=kind)
    return bytes(builder.Output())


def aedat4_header(compression: int, table: int, xml: str | None) -> bytes:
    """The header of a file; fields of defaults are left out, of `table`, the place of that of packets, -1."""
    builder = flatbuffers.Builder(64)
    text = 0 if xml is None else builder.CreateString(xml)
    builder.StartObject(3)
    builder.PrependInt32Slot(0, compression, 0)
    builder.PrependInt64Slot(1, table, -1)
    builder.PrependUOffsetTRelativeSlot(2, text, 0)
    builder.FinishSizePrefixed(builder.EndObject(), file_identifier=b"IOHE")
    return bytes(builder.Output())


def aedat4(
    contents: Iterable[tuple[int, bytes]],
    *,
    compression: int = 0,
    table: bytes | None = None,
    xml: str | None = XML,
) -> bytes:
    """A recording of packets of (stream, content as it is stored)."""
    packets = b"".join(struct.pack("<ii", stream, len(content)) + content for stream, content in contents)
    magic = b"#!AER-DAT4.0\r\n"
    if table is None:
        return magic + aedat4_header(compression, -1, xml) + packets
    place = len(magic + aedat4_header(compression, 1, xml) + packets)
    return magic + aedat4_header(compression, place, xml) + packets + table


def h5(fill) -> bytes:
    """An HDF5 file that a function fills; where h5py is missing the test is skipped."""
    content = io.BytesIO()
    with pytest.importorskip("h5py").File(content, "w") as file:
        fill(file)
    return content.getvalue()
