"""What a preparation leaves on the disk, and where it refuses to begin."""

import collections
import contextlib
import dataclasses
import errno
import json
import math
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from qsdt_jax import retry
from qsdt_jax.data.prepare import examples, writer
from qsdt_jax.data.prepare.imagefolder import read_imagefolder
from qsdt_jax.data.prepare.plan import make_plan
from qsdt_jax.data.prepare.records import DataSet, FilePart, Record
from qsdt_jax.data.prepare.writer import Prepared, prepare
from qsdt_jax.errors import UserError
from qsdt_jax.files import locked
from tests.data.prepare.files import BROKEN, ODDITIES, aedat, class_folder, write_files
from tests.disks import file_size_limit, mounted

CLASSES = ("ant", "bee", "cat")
IMAGES = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of three classes, the odd and the broken ones among the ants."""
    folder = tmp_path_factory.mktemp("source")
    class_folder(folder / "train", CLASSES, IMAGES)
    class_folder(folder / "val", CLASSES, 3, seed=500)
    write_files(folder / "train" / "ant", {**ODDITIES, **BROKEN})
    return folder


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory) -> Prepared:
    return prepare(read_imagefolder(folder), tmp_path_factory.mktemp("out"), shards=3)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


def refusal(dataset: DataSet, out: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        prepare(dataset, out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def raw(directory: Path, split: str) -> list[dict]:
    """The records as they are stored, images not decoded."""
    builder = tfds.builder_from_directory(directory)
    return list(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


def test_every_readable_record_is_stored_once_byte_for_byte(folder, prepared):
    for split, name in (("train", "train"), ("validation", "val")):
        files = {f"{f.parent.name}/{f.name}": f for f in (folder / name).rglob("*.JPEG")}
        expected = {
            key: (CLASSES.index(f.parent.name), f.read_bytes())
            for key, f in files.items()
            if f.name not in BROKEN
        }
        records = raw(prepared.directory, split)
        assert len(records) == prepared.records[split] == len(expected)
        found = {r["file_name"].decode(): (r["label"], r["image"]) for r in records}
        assert found == expected


def test_unreadable_records_are_named_and_counted(prepared, folder, tmp_path, capsys):
    names = sorted(reason.split(": ")[0] for reason in prepared.left_out["train"])
    assert names == sorted(f"ant/{name}" for name in BROKEN)
    assert not prepared.left_out["validation"]
    reasons = dict(reason.split(": ", 1) for reason in prepared.left_out["train"])
    assert "truncated" in reasons["ant/cut_off.JPEG"]
    assert reasons["ant/text.JPEG"] == "not a readable image (of no known format)"
    report = json.loads((prepared.directory / "preparation.json").read_text())
    assert report["splits"]["train"] == {
        "records": 3 * IMAGES + len(ODDITIES),
        "shards": 3,
        "records_of_class": [IMAGES + len(ODDITIES), IMAGES, IMAGES],
        "left_out": list(prepared.left_out["train"]),
    }
    # They are told while it goes on, too.
    prepare(read_imagefolder(folder), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    for reason in prepared.left_out["train"]:
        assert f"left out of the train split: {reason}" in lines


def test_metadata(prepared):
    builder = tfds.builder_from_directory(prepared.directory)
    info = builder.info
    assert (info.name, str(info.version)) == ("imagefolder", "1.0.0")
    assert info.features["label"].names == list(CLASSES)
    assert info.splits["train"].num_shards == 3
    assert builder.as_data_source("train[30:40]")[0]["label"] in range(3)
    for split, records in prepared.records.items():
        assert info.splits[split].num_examples == records
        stored = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        assert info.splits[split].num_bytes == sum(map(len, stored))
    assert sorted(os.listdir(prepared.directory)) == [
        "dataset_info.json",
        "features.json",
        "imagefolder-train.array_record-00000-of-00003",
        "imagefolder-train.array_record-00001-of-00003",
        "imagefolder-train.array_record-00002-of-00003",
        "imagefolder-validation.array_record-00000-of-00001",
        "label.labels.txt",
        "preparation.json",
    ]


STRANGER = """
import sys
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory(sys.argv[1])
assert builder.info.splits["train"].num_examples == 67
labels = [example["label"] for example in builder.as_data_source("train[:30]")]
assert set(labels) == {0, 1, 2}
source = tfds.data_source("imagefolder:1.0.0", split="validation", data_dir=sys.argv[2])
assert len(source) == 9
assert {example["image"].shape for example in source} == {(24, 36, 3)}
assert not [name for name in sys.modules if name.startswith(("qsdt_jax", "tensorflow.", "jax"))]
print("read")
"""


def test_a_script_that_knows_tfds_alone_reads_it(prepared, tmp_path):
    file = tmp_path / "stranger.py"
    file.write_text(STRANGER)
    command = [sys.executable, str(file), str(prepared.directory), str(prepared.directory.parents[1])]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout == "read\n", ended.stderr


def test_a_shard_is_a_sample_of_all_classes(prepared):
    """The order is that of a hash, and not of the classes as they were found."""
    labels = [r["label"] for r in raw(prepared.directory, "train")]
    lengths = tfds.builder_from_directory(prepared.directory).info.splits["train"].shard_lengths
    start = 0
    for length in lengths:
        assert min(np.bincount(labels[start : start + length], minlength=3)) >= 3
        start += length


def test_shards_do_not_depend_on_the_order_of_finding(folder, prepared, tmp_path):
    found = read_imagefolder(folder)
    turned = {split: records[::-1] for split, records in found.splits.items()}
    again = prepare(dataclasses.replace(found, splits=turned), tmp_path, shards=3)
    assert contents(again.directory) == contents(prepared.directory)


def test_number_of_shards():
    def dataset(bytes_of_record: int, train: int, test: int) -> DataSet:
        records = [Record(str(i), 0, FilePart("", bytes_of_record)) for i in range(train)]
        splits = {"train": records, "test": records[:test]}
        return DataSet(name="x", description="", source=Path(), class_names=["a"], splits=splits)

    def count(dataset: DataSet, shards: int | None = None) -> list[int]:
        of = {shard.split: shard.of for shard in make_plan(dataset, shards).shards}
        return [of["train"], of["test"]]

    assert count(dataset(100, 50, 10)) == [1, 1]
    assert count(dataset(100 << 20, 512, 51)) == [200, 20]
    assert count(dataset(100, 50, 10), shards=10) == [10, 2]
    assert count(dataset(100, 5, 5), shards=10) == [5, 5]  # None is empty.
    assert count(dataset(0, 5, 5)) == [1, 1]


def test_event_streams(tmp_path):
    streams = {f"cat_{i}.aedat": aedat([10 * i + 1, 7], [i, i + 1]) for i in range(6)}
    streams["cat_6.aedat"] = b"#!AER-DAT2.0\r\n" + bytes(9)
    write_files(tmp_path / "source", streams)
    records = [
        Record(name, 0, FilePart(str(tmp_path / "source" / name), len(content)))
        for name, content in streams.items()
    ]
    dataset = DataSet(
        name="events",
        description="",
        source=tmp_path,
        class_names=["cat"],
        splits={"train": records},
        kind="events",
    )
    done = prepare(dataset, tmp_path / "out")
    assert [reason.split(":")[0] for reason in done.left_out["train"]] == ["cat_6.aedat"]
    source = tfds.data_source("events:1.0.0", split="train", data_dir=tmp_path / "out")
    found = {r["file_name"].decode(): r["events"]["t"].tolist() for r in source}
    assert found == {f"cat_{i}.aedat": [i, i + 1] for i in range(6)}


def test_a_finished_directory_is_left_alone(folder, prepared):
    before = {file: file.stat().st_mtime_ns for file in prepared.directory.rglob("*")}
    out = prepared.directory.parents[1]
    assert prepare(read_imagefolder(folder), out, shards=3) == prepared
    message = refusal(read_imagefolder(folder), out, shards=2)
    assert "holds a finished data set of other files or of another number of shards" in message
    assert {file: file.stat().st_mtime_ns for file in prepared.directory.rglob("*")} == before


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_finished_directory_that_was_damaged_is_told(folder, prepared, tmp_path, damage):
    directory = shutil.copytree(prepared.directory, tmp_path / "imagefolder" / "1.0.0")
    file = sorted(directory.glob("*array_record*"))[1]
    content = file.read_bytes()
    file.unlink() if damage == "missing" else file.write_bytes(content[: len(content) // 2])
    before = contents(directory)
    expected = f"{file} of a finished data set is missing or damaged; remove {directory} and prepare it again"
    assert refusal(read_imagefolder(folder), tmp_path, shards=3) == expected
    assert contents(directory) == before


# Going on


class Interrupted(Exception):
    """Stands for the end of the process."""


@contextlib.contextmanager
def interrupted_at_shard(monkeypatch, key: str):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        original = writer._Writer._write_shard

        def write(self, shard, done, progress):
            if shard.key == key:
                raise Interrupted
            return original(self, shard, done, progress)

        patch.setattr(writer._Writer, "_write_shard", write)
        yield


def test_finished_shards_are_not_written_again(folder, prepared, tmp_path, monkeypatch, capsys):
    dataset = read_imagefolder(folder)
    with interrupted_at_shard(monkeypatch, "train-00002"):
        prepare(dataset, tmp_path, shards=3)
    directory = tmp_path / "imagefolder" / "1.0.0"
    shards = {file: file.stat().st_mtime_ns for file in directory.glob("*array_record*")}
    assert len(shards) == 2
    with pytest.raises(Exception, match="dataset_info"):
        tfds.builder_from_directory(directory)
    capsys.readouterr()
    assert prepare(dataset, tmp_path, shards=3).left_out == prepared.left_out
    done = sum(len(s.records) for s in make_plan(dataset, 3).shards[:2])
    assert f"{done} of 80 records were done before" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in shards} == shards
    assert contents(directory) == contents(prepared.directory)


def test_a_shard_that_lost_bytes_is_written_again(folder, prepared, tmp_path, monkeypatch):
    with interrupted_at_shard(monkeypatch, "train-00002"):
        prepare(read_imagefolder(folder), tmp_path, shards=3)
    directory = tmp_path / "imagefolder" / "1.0.0"
    shard = next(directory.glob("*00001-of-00003"))
    shard.write_bytes(shard.read_bytes()[:1000])
    prepare(read_imagefolder(folder), tmp_path, shards=3)
    assert contents(directory) == contents(prepared.directory)


def test_records_that_the_disk_did_not_give_are_tried_again(folder, prepared, tmp_path, monkeypatch):
    original = FilePart.read

    def read(self):
        if self.path.endswith(("bee/3.JPEG", "cat/5.JPEG", "ant/7.JPEG")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(self)

    dataset = read_imagefolder(folder)
    monkeypatch.setattr(retry, "WAITS", (0,))
    with interrupted_at_shard(monkeypatch, "validation-00000"), monkeypatch.context() as patch:
        patch.setattr(FilePart, "read", read)
        prepare(dataset, tmp_path, shards=3)
    again = prepare(dataset, tmp_path, shards=3)
    assert contents(again.directory) == contents(prepared.directory)


class Failing:
    """Reads of some files fail, the first so many times."""

    def __init__(self, monkeypatch, names: tuple[str, ...], code: int, times: float):
        self.reads = collections.Counter()
        original = FilePart.read

        def read(part: FilePart) -> bytes:
            if part.path.endswith(names):
                self.reads[part.path] += 1
                if self.reads[part.path] <= times:
                    raise OSError(code, os.strerror(code))
            return original(part)

        monkeypatch.setattr(FilePart, "read", read)
        monkeypatch.setattr(retry, "WAITS", (0, 0, 0))


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EMFILE])
def test_an_error_that_passes_costs_no_record(folder, prepared, tmp_path, monkeypatch, code):
    failing = Failing(monkeypatch, ("bee/3.JPEG", "cat/5.JPEG"), code, times=3)
    again = prepare(read_imagefolder(folder), tmp_path, shards=3)
    assert sorted(failing.reads.values()) == [4, 4]
    assert contents(again.directory) == contents(prepared.directory)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOENT])
def test_nothing_is_finished_without_a_record_that_is_not_given(
    folder, prepared, tmp_path, monkeypatch, capsys, code
):
    """The other shards are, and the same command goes on with that one."""
    with monkeypatch.context() as patch:
        Failing(patch, ("bee/3.JPEG",), code, times=math.inf)
        message = refusal(read_imagefolder(folder), tmp_path, shards=3)
    directory = tmp_path / "imagefolder" / "1.0.0"
    assert message.startswith(f"1 of 80 records cannot be read, so {directory} is not finished; the same")
    assert "tries them again. The first: bee/3.JPEG" in message
    assert os.strerror(code) in message
    assert "not read: bee/3.JPEG" in capsys.readouterr().err
    assert not (directory / "dataset_info.json").exists() and not (directory / "preparation.json").exists()
    shards = {file: file.stat().st_mtime_ns for file in directory.glob("*array_record*")}
    assert len(shards) == 3  # Of four.
    again = prepare(read_imagefolder(folder), tmp_path, shards=3)
    assert contents(again.directory) == contents(prepared.directory)
    assert {file: file.stat().st_mtime_ns for file in shards} == shards


def test_a_note_of_a_lost_record_of_an_earlier_version(folder, prepared, tmp_path, monkeypatch):
    with interrupted_at_shard(monkeypatch, "train-00001"):
        prepare(read_imagefolder(folder), tmp_path, shards=3)
    directory = tmp_path / "imagefolder" / "1.0.0"
    note = directory / ".preparing" / "train-00000.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "lost": 1}))
    (shard,) = directory.glob("*train*00000*")
    before = shard.stat().st_mtime_ns
    prepare(read_imagefolder(folder), tmp_path, shards=3)
    assert shard.stat().st_mtime_ns != before
    assert contents(directory) == contents(prepared.directory)


def test_a_finished_shard_that_the_disk_does_not_give_is_not_called_damaged(folder, prepared, monkeypatch):
    """Else the line would ask for a good directory to be removed."""
    monkeypatch.setattr(retry, "WAITS", (0,))
    file = sorted(prepared.directory.glob("*array_record*"))[0]

    class Reader:
        def __init__(self, path: str):
            self.path = path

        def ok(self) -> bool:
            return False

        def close(self) -> None:
            raise RuntimeError(f"pread() failed: Stale file handle; reading {self.path}; at byte 0")

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordReader", Reader)
    message = refusal(read_imagefolder(folder), prepared.directory.parents[1], shards=3)
    assert message.startswith(f"{file} cannot be read: Stale file handle; tried 2 times")


def test_an_unfinished_directory_of_another_plan_is_refused(folder, tmp_path, monkeypatch):
    dataset = read_imagefolder(folder)
    with interrupted_at_shard(monkeypatch, "train-00001"):
        prepare(dataset, tmp_path, shards=3)
    before = contents(tmp_path)
    assert "holds an unfinished preparation of other files" in refusal(dataset, tmp_path, shards=2)
    fewer = {**dataset.splits, "train": dataset.splits["train"][1:]}
    other = dataclasses.replace(dataset, splits=fewer)
    assert "holds an unfinished preparation of other files" in refusal(other, tmp_path, shards=3)
    assert contents(tmp_path) == before


# Places


def test_a_directory_of_something_else_is_refused(folder, tmp_path):
    directory = tmp_path / "imagefolder" / "1.0.0"
    write_files(directory, {"thesis.tex": b"x", "data/a": b"y"})
    assert "holds data, thesis.tex; expected an empty or a new directory" in refusal(
        read_imagefolder(folder), tmp_path
    )
    assert contents(directory) == {"thesis.tex": b"x", "data/a": b"y"}


def test_a_finished_directory_of_someone_else_is_refused(folder, tmp_path):
    directory = tmp_path / "imagefolder" / "1.0.0"
    write_files(directory, {"dataset_info.json": b"{}"})
    assert "holds a finished data set of other files" in refusal(read_imagefolder(folder), tmp_path)


def test_two_at_once(folder, tmp_path):
    unfinished = tmp_path / "imagefolder" / "1.0.0" / ".preparing"
    unfinished.mkdir(parents=True)
    with locked(unfinished / "lock"):
        assert "is being written by another process" in refusal(read_imagefolder(folder), tmp_path)
    prepare(read_imagefolder(folder), tmp_path)


def test_out_below_a_file(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refusal(read_imagefolder(folder), tmp_path / "file")


def test_a_write_that_fails_is_one_line_and_can_be_repeated(folder, prepared, tmp_path):
    with file_size_limit(100_000):
        message = refusal(read_imagefolder(folder), tmp_path, shards=3)
    assert message.endswith("cannot be written: File too large")
    again = prepare(read_imagefolder(folder), tmp_path, shards=3)
    assert contents(again.directory) == contents(prepared.directory)


@pytest.mark.parametrize("forewarned", [True, False])
def test_full_disk(tmp_path, monkeypatch, forewarned):
    """A file system of 2 MB; without the look at the free space the writing runs into its end."""
    # Random, for an array_record compresses what it can.
    write_files(tmp_path / "source", {f"ant/{i}.png": os.urandom(400_000) for i in range(10)})
    monkeypatch.setattr(examples, "checked_image", lambda content, name: content)
    if not forewarned:
        plenty = types.SimpleNamespace(free=1 << 40)
        monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: plenty)
    with mounted(tmp_path / "disk", "size=2m") as disk:
        message = refusal(read_imagefolder(tmp_path / "source"), disk)
    reason = "expected about 4 MB of free space, found 2 MB" if forewarned else "No space left on device"
    assert f"cannot be written: {reason}" in message


def test_read_only_disk(folder, tmp_path):
    with mounted(tmp_path / "disk", "size=1m", "ro") as disk:
        assert refusal(read_imagefolder(folder), disk).endswith("cannot be written: Read-only file system")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_forbidden_directory(folder, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    assert refusal(read_imagefolder(folder), tmp_path / "out").endswith(
        "cannot be written: Permission denied"
    )


# Sources


def test_a_source_that_is_gone(tmp_path, monkeypatch):
    class_folder(tmp_path / "source", CLASSES, 40)
    dataset = read_imagefolder(tmp_path / "source")
    shutil.rmtree(tmp_path / "source")
    message = refusal(dataset, tmp_path / "out")
    assert message.startswith(f"100 records cannot be read; is {tmp_path}/source still there? The last: ")
    class_folder(tmp_path / "source", CLASSES, 40)
    assert prepare(dataset, tmp_path / "out").records == {"train": 120}


def test_a_split_of_which_nothing_is_readable(tmp_path):
    write_files(tmp_path / "source" / "ant", BROKEN)
    dataset = read_imagefolder(tmp_path / "source")
    assert "no record of the train split can be read" in refusal(dataset, tmp_path / "out")


def test_a_shard_of_which_nothing_is_usable_says_why(tmp_path):
    """As a folder of recordings of another camera."""
    write_files(tmp_path / "source" / "ant", {f"{i}.jpg": b"<html>" for i in range(100)})
    dataset = read_imagefolder(tmp_path / "source")
    told = f"none of 100 records of {tmp_path}/source can be used. The first: ant/"
    assert refusal(dataset, tmp_path / "out").startswith(told)
