"""Event data sets that others wrote with tfds: proven, or refused in one line; never cast to other events."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from qsdt_jax.data.events.frames import EventPreprocess
from qsdt_jax.data.events.record import EVENT
from qsdt_jax.data.tfds_source import TfdsSource
from qsdt_jax.errors import CorruptRecord, UserError

STREAM = {"t": [5, 9, 12], "x": [0, 127, 3], "y": [127, 0, 4], "p": [0, 1, 1]}
TYPES = {"t": np.int64, "x": np.int16, "y": np.int16, "p": np.int8}


def write(
    directory: Path,
    streams: list[dict[str, Any]],
    *,
    types: dict[str, Any] | None = None,
    sensor: Any = None,
    metadata: Any = None,
    shape: tuple[int | None, ...] = (None,),
) -> Path:
    """A data set of one split; `sensor` is a feature of each record, `metadata` stands beside the shards."""
    columns = {
        field: tfds.features.Tensor(shape=shape, dtype=dtype)
        for field, dtype in {**TYPES, **(types or {})}.items()
    }
    features: dict[str, Any] = {"events": columns, "label": tfds.features.ClassLabel(names=["a", "b"])}
    if sensor is not None:
        features["sensor_size"] = tfds.features.Tensor(shape=(len(sensor),), dtype=np.asarray(sensor).dtype)
    directory.mkdir()
    identity = tfds.core.DatasetIdentity("x", tfds.core.Version("1.0.0"), str(directory), "")
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        tfds.core.Path(directory), dataset_name="x", filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=[len(streams)], num_bytes=1, filename_template=template
    )
    info.set_splits(tfds.core.SplitDict([split]))
    info.write_to_directory(directory)
    writer = ArrayRecordWriter(str(directory / "x-train.array_record-00000-of-00001"), "group_size:1")
    for i, stream in enumerate(streams):
        record: dict[str, Any] = {"events": {f: np.asarray(stream[f], columns[f].np_dtype) for f in columns}}
        record["label"] = i % 2
        if sensor is not None:
            record["sensor_size"] = np.asarray(sensor)
        writer.write(info.features.serialize_example(info.features.encode_example(record)))
    writer.close()
    if metadata is not None:
        (directory / "metadata.json").write_text(json.dumps({"sensor_size": metadata}))
    return directory


def refusal(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        TfdsSource(directory, "train", 2)[0]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("told", [{"sensor": np.array([128, 130], np.int32)}, {"metadata": [128, 130]}])
def test_a_data_set_of_others(tmp_path, told):
    streams = [STREAM, {**STREAM, "p": [-1, 1, 1], "x": [129, 0, 0]}]
    source = TfdsSource(write(tmp_path / "x", streams, **told), "train", 2)
    source = pickle.loads(pickle.dumps(source))
    for i, stream in enumerate(streams):
        example = source[i]
        assert example["sensor_size"] == (128, 130) and example["label"] == i
        events = np.asarray(example["events"])
        assert events.dtype == EVENT
        for field in "txy":
            assert events[field].tolist() == stream[field]
        assert events["p"].tolist() == [0, 1, 1]
        frames = EventPreprocess(size=(128, 130), timesteps=1).evaluate(example)["image"]
        assert frames[0, stream["y"][0], stream["x"][0], 0] == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": [300, 0, 0]}, "train record 0: has an event at x = 300; the sensor is 128x128"),
        ({"y": [0, -1, 0]}, "has an event at y = -1"),
        ({"p": [0, 2, 1]}, "has the polarities 0, 1, 2; expected 0 and 1, or -1 and 1"),
        ({"t": [0, 1, 1 << 40]}, "expected microseconds of 0 to 4294967295"),
        ({field: [] for field in STREAM}, "has no events"),
        ({"x": [1, 2]}, "expected t, x, y and p of one length"),
        (
            {"t": np.arange(1000)[::-1], "x": [1] * 1000, "y": [1] * 1000, "p": [1] * 1000},
            "goes back in time",
        ),
        ({"t": [2] * 9000, "x": [1] * 9000, "y": [1] * 9000, "p": [1] * 9000}, "9,000 events in 1 microsec"),
    ],
)
def test_records_that_are_no_streams(tmp_path, changes, told):
    directory = write(tmp_path / "x", [{**STREAM, **changes}], metadata=[128, 128])
    with pytest.raises(CorruptRecord):
        TfdsSource(directory, "train", 2)[0]
    assert told in refusal(directory)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"types": {"t": np.float32}}, "events: t is float32; expected whole microseconds"),
        ({"types": {"x": np.float64}}, "events: x is float64; expected whole numbers"),
        ({"shape": (None, 1)}, "events/t has the shape (None, 1); expected (None,)"),
        ({"metadata": None}, 'a feature "sensor_size", or {"sensor_size": [HEIGHT, WIDTH]} in'),
        ({"metadata": [260, 16385]}, "1 to 16384 pixels; found 260x16385"),
        ({"metadata": [128, 128, 2]}, "found 128x128x2"),
        ({"metadata": "128"}, "metadata.json: expected [HEIGHT, WIDTH] in whole numbers; found '128'"),
        ({"metadata": [128.0, 128.0]}, "found [128.0, 128.0]"),
        ({"sensor": np.array([128, 128, 2])}, "sensor_size is int64 (3,); expected whole numbers (height,"),
        ({"sensor": np.array([128.0, 128.0])}, "sensor_size is float64 (2,)"),
        ({"sensor": np.array([480, 16385])}, "record 0: sensor_size: expected the height and the width"),
    ],
)
def test_data_sets_that_do_not_say_what_they_hold(tmp_path, options, told):
    streams = [{field: np.array(x)[:, None] for field, x in STREAM.items()} if "shape" in options else STREAM]
    given = {} if "sensor" in options else {"metadata": [128, 128]}
    assert told in refusal(write(tmp_path / "x", streams, **{**given, **options}))


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_damaged_metadata(tmp_path, content):
    directory = write(tmp_path / "x", [STREAM], metadata=[128, 128])
    (directory / "metadata.json").write_text(content)
    assert f"{directory}/metadata.json cannot be read" in refusal(directory)
