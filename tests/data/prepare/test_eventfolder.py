"""Any folder of class folders of event files."""

import io
from pathlib import Path

import numpy as np
import pytest

from qsdt_jax.data.events.frames import EventPreprocess
from qsdt_jax.data.prepare.eventfolder import read_eventfolder
from qsdt_jax.data.prepare.writer import prepare
from qsdt_jax.data.tfds_source import TfdsSource
from qsdt_jax.errors import UserError
from tests.data.events.formats.written import aedat3, aedat4, aedat4_events
from tests.data.prepare.files import aedat, five_bytes, write_files
from tests.launch.tiny import launch

STREAMS = {
    f"{split}/{digit}/{i:05d}.bin": five_bytes([(10 * i, digit, i, 1), (10 * i + 1, 33, 33, 0)])
    for split in ("Train", "Test")
    for digit in range(3)
    for i in range(4)
}


def refusal(source: Path, *size: int) -> str:
    with pytest.raises(UserError) as caught:
        read_eventfolder(source, size)
    return str(caught.value)


def test_nmnist_as_it_is_unpacked(tmp_path):
    """From the command line to frames; one stream has events beyond the sensor and is left out."""
    pytest.importorskip("tonic")
    far = {"Train/1/00009.bin": five_bytes([(0, 34, 0, 1)]), "Train/1/00010.bin": b"1234"}
    write_files(tmp_path / "source", {**STREAMS, **far})
    words = ["prepare", "eventfolder", "--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert launch(*words, "--sensor_size=34,34") == 0
    train, test = (TfdsSource(tmp_path / "out", split, 2) for split in ("train", "test"))
    assert (train.class_names, len(train), len(test)) == (("0", "1", "2"), 12, 12)
    preprocess = EventPreprocess(size=(34, 34), timesteps=2, slicing="time")
    for example in (train[i] for i in range(12)):
        assert example["sensor_size"] == (34, 34)
        first, last = np.asarray(example["events"]).tolist()
        assert (first[1], last[1:]) == (example["label"], (33, 33, 0)) and last[0] == first[0] + 1
        frames = preprocess.evaluate(example)["image"]
        assert frames[0, first[2], first[1], 1] == frames[1, 33, 33, 0] == 1 and frames.sum() == 2


def test_recordings_of_a_dvs128_need_no_tonic(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_files(tmp_path / "source", {f"{c}/{i}.aedat": aedat([i], [i]) for c in "ab" for i in range(3)})
    prepared = prepare(read_eventfolder(tmp_path / "source", (128, 128)), tmp_path / "out")
    assert prepared.records == {"train": 6}
    assert TfdsSource(tmp_path / "out", "train")[0]["sensor_size"] == (128, 128)


def test_another_sensor_is_another_data_set(tmp_path):
    write_files(tmp_path / "source", {f"a/{i}.aedat": aedat([127 << 8 | 127 << 1], [i]) for i in range(3)})
    prepare(read_eventfolder(tmp_path / "source", (128, 128)), tmp_path / "out")
    with pytest.raises(UserError, match="holds a finished data set of other files"):
        prepare(read_eventfolder(tmp_path / "source", (64, 64)), tmp_path / "out")


@pytest.mark.parametrize(
    ("size", "found"), [((), "nothing"), ((34,), "34"), ((0, 34), "0x34"), ((34, 16385), "34x16385")]
)
def test_sensors_that_are_none(tmp_path, size, found):
    told = "sensor_size: expected the height and the width of a sensor, 1 to 16384 pixels; found"
    assert refusal(tmp_path, *size) == f"{told} {found}"


def test_nothing_there(tmp_path):
    assert refusal(tmp_path, 34, 34).endswith("or SOURCE/CLASS/STREAM.aedat; found nothing")
    write_files(tmp_path, {"a/x.jpg": b""})
    assert refusal(tmp_path, 34, 34) == f"{tmp_path}/a: expected event files of a class; found x.jpg"


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("imagefolder", "34,34", "--sensor_size is of an eventfolder alone"),
        ("eventfolder", "34x34", "--sensor_size=34x34: expected HEIGHT,WIDTH in pixels"),
    ],
)
def test_mistakes_of_the_flag(tmp_path, capsys, name, size, told):
    (tmp_path / "source").mkdir()
    words = ["--source", tmp_path / "source", "--out", tmp_path / "out", f"--sensor_size={size}"]
    assert launch("prepare", name, *words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {told}"


def test_files_of_every_format_and_a_large_sensor(tmp_path):
    """Coordinates beyond a byte are stored in two."""
    events = [(0, 345, 259, 1), (7, 1, 2, 0), (9, 3, 4, 1)]
    text = "\n".join(f"{t / 1e6} {x} {y} {p}" for t, x, y, p in events).encode()
    table = io.BytesIO()
    np.save(table, np.array(events, [(name, "i8") for name in "txyp"]))
    streams = {
        "a/1.aedat4": aedat4([(0, aedat4_events(events))]),
        "a/2.txt": text,
        "b/3.aedat": aedat3([events]).replace(b"DVS128", b"DAVIS346"),
        "b/4.npy": table.getvalue(),
    }
    write_files(tmp_path / "source", {**streams, "b/notes.txt": b"hello", "b/5.csv": text})
    prepared = prepare(read_eventfolder(tmp_path / "source", (260, 346)), tmp_path / "out")
    assert prepared.records == {"train": 4}
    assert [line.partition(": ")[0] for line in sorted(prepared.left_out["train"])] == [
        "b/5.csv",
        "b/notes.txt",
    ]
    source = TfdsSource(tmp_path / "out", "train")
    assert sorted(source[i]["label"] for i in range(4)) == [0, 0, 1, 1]
    for i in range(4):
        assert np.asarray(source[i]["events"]).tolist() == events
