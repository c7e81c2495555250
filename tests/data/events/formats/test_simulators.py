"""What simulators and tools write: text, arrays of NumPy, HDF5."""

import builtins
import io
import zipfile

import numpy as np
import pytest

from qsdt_jax.data.events import limits
from qsdt_jax.data.events.files import read_event_file, require_readers
from qsdt_jax.data.events.record import EVENT
from qsdt_jax.errors import CorruptRecord, UserError
from tests.data.events.formats.written import h5

T, X, Y, P = [0, 11, 50, 139], [33, 158, 345, 0], [39, 145, 259, 0], [1, 1, 0, 1]
EVENTS = list(zip(T, X, Y, P, strict=True))
# As v2e and the text files of the RPG have them, in seconds.
TEXT = "\n".join(f"{t / 1e6:.9f} {x} {y} {p}" for t, x, y, p in EVENTS)


def read(data: bytes | str, name: str):
    return read_event_file(data.encode() if isinstance(data, str) else data, name)


def refusal(data: bytes | str, name: str) -> str:
    with pytest.raises(CorruptRecord) as caught:
        read(data, name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{name}: ")
    return str(caught.value)


def npy(array, **options) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def npz(**columns) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **columns)
    return content.getvalue()


# Text


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT + "\n\n",
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        "#!events.txt\n# Format is time (float s), x, y, polarity (0=off, 1=on)\n" + TEXT,
        TEXT.replace(" ", ","),
        TEXT.replace(" ", "\t"),
        "t;x;y;p\n" + TEXT.replace(" ", ";"),
        "\n".join(f"{t} {x} {y} {2 * p - 1}" for t, x, y, p in EVENTS),
        "\n".join(f"{1_600_000_000 + t / 1e6:.6f} {x} {y} {p}" for t, x, y, p in EVENTS),
        "\n".join(f"{t / 1e6} {x} {y} {p}" for t, x, y, p in EVENTS),  # Some times are as 1.1e-05.
        "x y p t\n" + "\n".join(f"{x} {y} {p} {t}" for t, x, y, p in EVENTS),
        "timestamp_ns,x,y,polarity\n" + "\n".join(f"{1000 * t},{x},{y},{p}" for t, x, y, p in EVENTS),
        "Polarity, Time_ms, X, Y, ID\n" + "\n".join(f"{p}, {t / 1e3}, {x}, {y}, 9" for t, x, y, p in EVENTS),
    ],
)  # fmt: skip
def test_text(text):
    found = read(text, "a.txt")
    assert found.events.dtype == EVENT and found.events.tolist() == EVENTS and found.sensor_size is None


def test_text_whose_first_line_is_the_sensor():
    """Width and height, as the text files for E2VID have them."""
    assert read(f"346 260\n{TEXT}", "a.txt").sensor_size == (260, 346)
    assert "has an event at x = 345; the sensor is 260x200" in refusal(f"200 260\n{TEXT}", "a.txt")
    assert "expected the width and the height" in refusal(f"346 1.5\n{TEXT}", "a.txt")


def test_comments_are_no_part_of_a_line():
    """Nor do their commas part the numbers."""
    text = "\n".join(f"{t} {x} {y} {p} # a, b; c" for t, x, y, p in EVENTS)
    assert read(text, "a.txt").events.tolist() == EVENTS
    assert read("t x y p # a, b\n" + text, "a.csv").events.tolist() == EVENTS
    assert read(f"346 260 # width, height\n{text}", "a.txt").sensor_size == (260, 346)


def test_whole_seconds_are_seconds():
    assert read("0.0 1 1 1\n2.0 1 1 0\n", "a.txt").events["t"].tolist() == [0, 2_000_000]
    assert read("x,t,y,p\n1,0.0,1,1\n1,2.0,1,0\n", "a.csv").events["t"].tolist() == [0, 2_000_000]
    assert read("0 1 1 1\n2 1 1 0\n", "a.txt").events["t"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("", "a.txt", "has no events"),
        ("# only a comment\n", "a.txt", "has no events"),
        ("t x y p\n", "a.txt", "has no events"),
        (TEXT, "a.csv", "expected a first line that names the columns; found '0.000000000 33 39 1'"),
        ("hello world\n1 2\n", "a.txt", "has no t, x, y, p; expected columns t, x, y and p; found hello"),
        ("t x y\n1 2 3\n", "a.txt", "has no p"),
        ("t x y p t\n1 2 3 1 4\n", "a.txt", "names a column twice"),
        ("t x y p time\n1 2 3 1 4\n", "a.txt", "has two columns of t"),
        ("0 1 2\n", "a.txt", "has 3 numbers a line; expected 4"),
        (TEXT + "\n1 2 3", "a.txt", "is no table of numbers"),
        (TEXT + "\n0.2 2 3 x", "a.txt", "is no table of numbers"),
        ("nan 1 2 1\n0.5 1 2 1", "a.txt", "has times that are no numbers"),
        ("inf 1 2 1\n", "a.txt", "has times that are no numbers"),
        ("0 1.5 2 1\n", "a.txt", "has the x 1.5; expected whole numbers"),
        ("0 1 nan 1\n", "a.txt", "has the y nan; expected whole numbers"),
        ("0 1 2 2\n", "a.txt", "has the polarities 2"),
        ("0 -1 2 1\n", "a.txt", "has an event at x = -1"),
        ("0 1e300 2 1\n", "a.txt", "has the x 1e+300"),
        ("0 99999 2 1\n", "a.txt", "has an event at x = 99999"),
        ("0.0 1 2 1\n9000.0 1 2 1\n", "a.txt", "has the times 0 to 9000000000; expected microseconds"),
        ("\n".join(f"{9 - i % 3} 1 2 1" for i in range(40)), "a.txt", "goes back in time"),
        (b"\xff\xfe\x00", "a.txt", "is no text"),
        (b"<html>404</html>", "a.csv", "is an HTML page; expected a text of events"),
        (b"#!AER-DAT2.0\r\n", "a.txt", "is AEDAT 2.0; expected a text of events"),
    ],
)  # fmt: skip
def test_what_is_no_text_of_events(text, name, reason):
    assert reason in refusal(text, name)


# Arrays of NumPy


@pytest.mark.parametrize(
    "types",
    [
        [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?")],
        [("x", "u2"), ("y", "u2"), ("timestamp", ">u8"), ("polarity", "u1")],
        [("ts", "f8"), ("x", "f4"), ("y", "f4"), ("p", "i1")],
    ],
)
def test_structured_arrays(types):
    array = np.empty(4, types)
    for field, column in zip("txyp", (T, X, Y, P), strict=True):
        target = next(name for name, _ in types if name[0] == field)
        array[target] = column
    assert read(npy(array), "a.npy").events.tolist() == EVENTS


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
def test_floats_of_any_width(dtype):
    columns = {"x": X, "y": Y, "t": T, "p": P}
    narrow = {field: np.array(column, dtype) for field, column in columns.items()}
    assert read(npz(**narrow), "a.npz").events.tolist() == EVENTS


@pytest.mark.filterwarnings("error")
def test_floats_that_are_no_places_and_no_times():
    for dtype in (np.float32, np.longdouble):
        large = np.array([0, 0, 0, np.finfo(dtype).max], dtype)
        assert "has the x" in refusal(npz(x=large, y=Y, t=T, p=P), "a.npz")
        assert "has t" in refusal(npz(x=X, y=Y, t=large, p=P), "a.npz")
    assert "has the t inf" in refusal("0.5 1 1 1\n1e308 1 1 1", "a.txt")


@pytest.mark.parametrize(
    "columns",
    [
        {"x": X, "y": Y, "t": T, "p": P},
        {"x": X, "y": Y, "t": np.array(T) / 1e6, "p": [2 * p - 1 for p in P]},  # Of esim_py.
        {"x": np.int16(X), "y": np.int16(Y), "t": np.int64(T) + 10**15, "p": np.array(P, bool), "size": 7},
    ],
)
def test_archives_of_arrays(columns):
    assert read(npz(**columns), "a.NPZ").events.tolist() == EVENTS


def test_nanoseconds_under_a_plain_name_change_no_frame():
    """As esim_torch has them: equal counts and equal shares of the duration are the same."""
    from qsdt_jax.data.events.frames import make_frames

    generator = np.random.default_rng(0)
    t, x, y = np.sort(generator.integers(0, 10**6, 300)), *generator.integers(0, 8, (2, 300))
    plain, nano = (read(npz(t=times, x=x, y=y, p=x % 2), "a.npz").events for times in (t, 1000 * t))
    for slicing in ("count", "time", "sum"):
        frames = [make_frames(events, (8, 8), (8, 8), 5, slicing) for events in (plain, nano)]
        if slicing == "time":  # The last microsecond is a thousand nanoseconds.
            assert np.abs(frames[0] - frames[1]).sum() <= 2 * 5
        else:
            np.testing.assert_array_equal(*frames)


STRUCTURED = npy(np.zeros(4, [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?")]))


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"", "a.npy", "cannot be read as a structured array of NumPy"),
        (b"", "a.npz", "is no zip archive, or cut off"),
        (STRUCTURED[:-1], "a.npy", "cannot be read as a structured array of NumPy"),
        (STRUCTURED.replace(b"(4,), }" + b" " * 14, b"(" + b"9" * 15 + b",), }"), "a.npy", "cannot be read"),
        (npz(x=X)[:-1], "a.npz", "is a zip archive; expected an archive of NumPy"),
        (npy(np.zeros((5, 4))), "a.npy", "a structured array of t, x, y and p; found float64 (5, 4)"),
        (npz(x=X), "a.npy", "found an archive"),
        (STRUCTURED, "a.npz", "is an array of NumPy; expected an archive"),
        (npy(np.array([{"t": 1}], object), allow_pickle=True), "a.npy", "cannot be read as"),
        (npz(t=np.array([{}], object), x=X, y=Y, p=P), "a.npz", "cannot be read as arrays"),
        (npz(t=T, x=X, y=Y), "a.npz", "has no p; expected columns t, x, y and p; found t, x, y"),
        (npz(t=T, x=X, y=Y, p=[1]), "a.npz", "expected t, x, y and p of one length"),
        (npz(t=[T], x=X, y=Y, p=P), "a.npz", "t is int64 (1, 4); expected numbers, one for each event"),
        (npz(t=["a"] * 4, x=X, y=Y, p=P), "a.npz", "t is <U1 (4,)"),
        (npz(t=[], x=[], y=[], p=[]), "a.npz", "has no events"),
        (b"<html>", "a.npy", "is an HTML page; expected a structured array"),
    ],
)  # fmt: skip
def test_what_are_no_arrays_of_events(data, name, reason):
    assert reason in refusal(data, name)


def test_an_archive_that_unpacks_to_more_than_a_recording(monkeypatch):
    monkeypatch.setattr(limits, "MOST_BYTES", 1000)
    assert "unpacks to" in refusal(npz(t=np.zeros(10**4, int), x=X, y=Y, p=P), "a.npz")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("readme", "hello")
    assert "has no t, x, y, p; expected columns" in refusal(content.getvalue(), "a.npz")


# HDF5


def rows(file, name="events", dtype="uint32"):
    file.create_dataset(name, data=np.array(EVENTS, dtype), maxshape=(None, 4), compression="gzip")


def group(file):
    for field, column in zip("txyp", (T, X, Y, P), strict=True):
        file[f"events/{field}"] = column
    file["ms_to_idx"] = [0, 1]


def compound(file):
    file["events"] = np.array([(x, y, p, t) for t, x, y, p in EVENTS], [(n, "i8") for n in "xypt"])


@pytest.mark.parametrize("fill", [rows, lambda file: rows(file, "event"), group, compound])
@pytest.mark.parametrize("suffix", ["h5", "hdf5"])
def test_hdf5(fill, suffix):
    assert read(h5(fill), f"a.{suffix}").events.tolist() == EVENTS


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (lambda file: None, "has no data set 'events'; found nothing"),
        (lambda file: file.create_group("davis"), "has no data set 'events'; found davis"),
        (lambda file: file.create_group("events"), "has no t, x, y, p"),
        (lambda file: file.create_dataset("events", data=np.zeros((3, 5))), "are (3, 5); expected rows"),
        (lambda file: file.create_dataset("events", (2**40, 4), "u4", chunks=(9, 4)), "more than a recor"),
        (lambda file: file.create_dataset("events", (0, 4), "u4"), "has no events"),
        (lambda file: file.create_dataset("events", data=b"text"), "expected rows"),
    ],
)  # fmt: skip
def test_what_is_no_hdf5_of_events(fill, reason):
    assert reason in refusal(h5(fill), "a.h5")


def test_damaged_hdf5():
    data = h5(rows)
    assert "cannot be read as HDF5" in refusal(data[:-10], "a.h5")
    assert "is something else; expected HDF5" in refusal(b"hello", "a.h5")
    assert "is an HTML page; expected HDF5" in refusal(b"<html>", "a.h5")
    for place in range(0, len(data), 7):
        try:
            read(data[:place] + b"\xff" + data[place + 1 :], "a.h5")
        except CorruptRecord as error:
            assert "\n" not in str(error)


def test_without_h5py(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^b\.h5 is read by the library h5py, which is not installed"):
        require_readers(["a.txt", "b.h5"])
    real = builtins.__import__
    monkeypatch.setattr("importlib.import_module", lambda name: real("no_such_module"))
    with pytest.raises(UserError, match="pip install h5py"):
        read(b"", "b.h5")
