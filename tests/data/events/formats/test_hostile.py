"""Files made to take memory, to read other files or to crash the reader, and files with any damage."""

import io
import random
import zipfile

import numpy as np
import pytest

from qsdt_jax.data.events import limits
from qsdt_jax.data.events.files import read_event_file
from qsdt_jax.errors import CorruptRecord
from tests.data.events.formats.written import aedat3, aedat4, aedat4_events, h5
from tests.data.prepare.files import aedat, five_bytes

EVENTS = [(0, 33, 39, 1), (11, 158, 145, 1), (50, 345, 259, 0), (139, 0, 0, 1)]
COLUMNS = {field: np.array(column) for field, column in zip("txyp", zip(*EVENTS, strict=True), strict=True)}
STRUCTURED = np.array(EVENTS, [(field, "i4") for field in "txyp"])


def refusal(data: bytes, name: str) -> str:
    with pytest.raises(CorruptRecord) as caught:
        read_event_file(data, name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{name}: ")
    return str(caught.value)


def written(write, array) -> bytes:
    content = io.BytesIO()
    write(content, array)
    return content.getvalue()


def npz(method: int = zipfile.ZIP_DEFLATED, **columns) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, column in (columns or COLUMNS).items():
            archive.writestr(f"{name}.npy", written(np.save, column))
    return content.getvalue()


# HDF5


def virtual(file, source=".", key="events"):
    h5py = pytest.importorskip("h5py")
    layout = h5py.VirtualLayout((4, 4), "u4")
    layout[:] = h5py.VirtualSource(source, "source", (4, 4))
    file["source"] = np.array(EVENTS, "u4")
    file.create_virtual_dataset(key, layout)


def columns(file, left_out: str = "", **options):
    for field, column in COLUMNS.items():
        if field != left_out:
            file.create_dataset(f"events/{field}", data=column, **options)


@pytest.mark.parametrize("source", [".", "no_such_file.h5"])
def test_virtual_data_sets_are_not_opened(source):
    """Those of files in memory crash the library when they are read."""
    assert "the content of its 'events' lies in other files" in refusal(
        h5(lambda file: virtual(file, source)), "a.h5"
    )

    def member(file):
        columns(file, left_out="p")
        virtual(file, source, "events/p")

    assert "the content of its 'p' lies in other files" in refusal(h5(member), "a.h5")


def test_no_other_file_is_read(tmp_path):
    """By a data set whose content lies there, and by a link, of the events or of a column."""
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(np.array(EVENTS, "u4").tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        columns(file)
    external = [(str(tmp_path / "secret"), 0, 64)]
    data = h5(lambda file: file.create_dataset("events", (4, 4), "u4", external=external))
    assert "the content of its 'events' lies in other files" in refusal(data, "a.h5")

    def linked(link, key):
        def fill(file):
            columns(file, left_out=key)
            if key == "events":
                del file["events"]
            file["events" if key == "events" else f"events/{key}"] = link

        return h5(fill)

    for link in (h5py.SoftLink("/events/x"), h5py.SoftLink("/none")):
        assert "its 'p' is a link to elsewhere" in refusal(linked(link, "p"), "a.h5")
    for key in ("events", "p"):
        link = h5py.ExternalLink(
            str(tmp_path / "other.h5"), "/events" + ("" if key == "events" else f"/{key}")
        )
        assert f"its {key!r} is a link to elsewhere" in refusal(linked(link, key), "a.h5")


def test_other_members_are_not_read():
    """Neither their content nor what they lead to counts."""
    h5py = pytest.importorskip("h5py")

    def fill(file):
        columns(file)
        file.create_dataset("events/flow", (2**40, 9), "f8", chunks=(1, 9))
        file["events/elsewhere"] = h5py.ExternalLink("none.h5", "/")

    assert read_event_file(h5(fill), "a.h5").events.tolist() == EVENTS

    def fields(file):
        types = [(field, "i4") for field in "txyp"] + [("note", h5py.string_dtype())]
        file["events"] = np.array([(*event, "hello") for event in EVENTS], types)

    assert read_event_file(h5(fields), "a.h5").events.tolist() == EVENTS


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (lambda file: [file.create_dataset(f"events/{k}", (2**26,), "i8") for k in "txyp"], "unpacks to 2,"),
        (lambda file: file.create_dataset("events", (2**26, 4), "i8"), "unpacks to 2,147,483,648 bytes"),
        (lambda file: file.create_dataset("events", (4, 4), "u1", chunks=(2**25, 4), maxshape=(None, 4)),
         "unpacks to 134,217,728 bytes"),
        (lambda file: [file.create_dataset(f"events/{k}", (4,), "i8", chunks=(2**24,), maxshape=(None,))
                       for k in "txyp"], "unpacks to 536,870,912 bytes"),
        (lambda file: file.create_dataset("events", (4, 4), "S8192"), "events is |S8192; expected numbers"),
        (lambda file: file.create_dataset("events", data=np.array([[b"a"] * 4], object)), "expected numbers"),
        (lambda file: [file.create_dataset(f"events/{k}", (4,), "S9") for k in "txyp"], "p is |S9"),
        (lambda file: file.create_dataset("events", (4,), [(k, "i4", (9,)) for k in "txyp"]), "t is ("),
        (lambda file: file.create_dataset("events", (4,), [(k, "S9") for k in "txyp"]), "t is |S9"),
        (lambda file: file.__setitem__("events", np.dtype("i4")), "its 'events' is no data set"),
        (lambda file: [file.create_group(f"events/{k}") for k in "txyp"], "its 'p' is no data set"),
        (lambda file: file.create_dataset("events", dtype="i4"), "a.h5: "),
    ],
)  # fmt: skip
def test_what_is_too_large_or_no_numbers_is_not_read(fill, reason):
    assert reason in refusal(h5(fill), "a.h5")


def test_a_filter_that_is_not_there_is_named():
    """Blosc packs the files of DSEC; HDF5 stores a chunk that an optional filter does not pack as it is."""
    h5py = pytest.importorskip("h5py")

    def fill(file):
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((4, 4))
        made.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4, 4))
        h5py.h5d.create(file.id, b"events", h5py.h5t.STD_U32LE, space, made)

    assert "its 'events' is packed by the filter 32001" in refusal(h5(fill), "a.h5")


# Archives and packets


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_of_methods_that_are_not_bounded(method):
    assert "is compressed by another method" in refusal(npz(method), "a.npz")


def test_other_arrays_of_an_archive_are_not_read():
    """Not an array of objects either, which could not be read."""
    data = npz(**COLUMNS, size=np.array(7))
    with zipfile.ZipFile(content := io.BytesIO(data), "a") as archive:
        archive.writestr("note.npy", b"\x93NUMPY damaged")
    assert read_event_file(content.getvalue(), "a.npz").events.tolist() == EVENTS
    assert "p is |S5 ()" in refusal(
        with_member(npz(**{k: COLUMNS[k] for k in "txy"}), "p", b"hello"), "a.npz"
    )


def with_member(archive: bytes, name: str, content: bytes) -> bytes:
    with zipfile.ZipFile(whole := io.BytesIO(archive), "a") as file:
        file.writestr(name, content)
    return whole.getvalue()


def zstd(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(content)


def test_packets_that_unpack_to_more_than_a_recording(monkeypatch):
    """Each of them is of an allowed size; those of other streams count, too."""
    for kind in (b"EVTS", b"FRME"):
        packet = zstd(aedat4_events(EVENTS, kind) + bytes(10**6))
        assert "unpacks to 1,000," in refusal(aedat4([(0, packet)] * 3, compression=3), "a.aedat4")
    packet = zstd(aedat4_events(EVENTS))
    data = aedat4([(0, packet)] * 3, compression=3)
    monkeypatch.setattr(limits, "MOST_EVENTS", 11)
    assert "has 12 events; expected at most 11" in refusal(data, "a.aedat4")
    monkeypatch.setattr(limits, "MOST_EVENTS", 12)
    assert len(read_event_file(data, "a.aedat4").events) == 12
    monkeypatch.setattr(limits, "MOST_BYTES", 200)
    assert "expected at most 200" in refusal(data, "a.aedat4")


# Any damage

VALUES = (0, 1, 0x20, 0x28, 0x7F, 0x80, 0xFF)  # Among them a space and a bracket, of headers that are text.

TEXT = "t,x,y,p\n" + "\n".join(",".join(map(str, event)) for event in EVENTS)
WHOLE = {
    "deflated.npz": npz,
    "stored.npz": lambda: npz(zipfile.ZIP_STORED),
    "bzip2.npz": lambda: npz(zipfile.ZIP_BZIP2),
    "lzma.npz": lambda: npz(zipfile.ZIP_LZMA),
    "structured.npy": lambda: written(np.save, STRUCTURED),
    "rows.h5": lambda: h5(lambda file: file.create_dataset("events", data=np.array(EVENTS, "u4"))),
    "packed.h5": lambda: h5(
        lambda file: file.create_dataset("events", data=np.array(EVENTS), chunks=(4, 4), compression="gzip")
    ),
    "columns.h5": lambda: h5(columns),
    "fields.h5": lambda: h5(lambda file: file.create_dataset("events", data=STRUCTURED)),
    "a.txt": lambda: TEXT.partition("\n")[2].replace(",", " ").encode(),
    "a.csv": TEXT.encode,
    "2.aedat": lambda: aedat([1, 2, 3], [4, 5, 6]),
    "3.aedat": lambda: aedat3([EVENTS]),
    "4.aedat": lambda: aedat4([(0, aedat4_events(EVENTS))]),
    "zstd.aedat4": lambda: aedat4([(0, zstd(aedat4_events(EVENTS)))], compression=3),
    "a.bin": lambda: five_bytes([(5, 0, 33, 1), (5, 12, 7, 0)] * 3),
}


@pytest.mark.parametrize("name", WHOLE)
def test_any_damage_gives_a_recording_or_one_line(name):
    """Single bytes, and the file cut off; every place of a small file, a sample of a large one."""
    if name.endswith(".bin"):
        pytest.importorskip("tonic")
    data, draw = WHOLE[name](), random.Random(0)
    damaged = [data[:at] + bytes([value]) + data[at + 1 :] for at in range(len(data)) for value in VALUES]
    damaged += [data[:at] for at in range(len(data))]
    refused = 0
    samples = 250 if name.endswith(".h5") else 800
    for content in draw.sample(damaged, min(samples, len(damaged))):
        try:
            read_event_file(content, name)
        except CorruptRecord as error:
            assert "\n" not in str(error) and str(error).startswith(f"{name}: ")
            refused += 1
    assert refused > 10
