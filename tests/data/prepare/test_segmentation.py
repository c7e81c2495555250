"""Images with annotations as tfds directories, read by tfds and by ours."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from launch.prepare import find
from qsdt_jax.assemble.data import build_source
from qsdt_jax.data.dense.annotated_source import read_pairs
from qsdt_jax.data.dense.segmentation_folders import ade20k_layout, segfolder_layout
from qsdt_jax.data.prepare.records import check
from qsdt_jax.data.prepare.segmentation import read_ade20k, read_segfolder
from qsdt_jax.data.prepare.writer import _Writer, prepare
from qsdt_jax.data.tfds_source import TfdsSource
from qsdt_jax.errors import UserError
from tests.data.dense.segmentation_files import HEIGHT, NAMES, WIDTH, ade20k, indices, png, segfolder
from tests.data.prepare.files import encoded, write_files
from tests.launch.tiny import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """ADE20K of a few images, one of another size, and some that are damaged or without a label."""
    root = tmp_path_factory.mktemp("ade")
    ade20k(root, training=12)
    others = {
        "a_web": (encoded(50, "WEBP"), png(indices(50, 3), "P")),
        "b_point": (png(np.full((1, 1, 3), 9, np.uint8)), png(np.ones((1, 1), np.uint8))),
        "c_nothing": (encoded(51), png(np.zeros((HEIGHT, WIDTH), np.uint8))),
        "d_size": (encoded(52), png(indices(52, 3, 5, 5))),
        "e_beyond": (encoded(53), png(indices(53, 3) + 1)),
        "f_colours": (encoded(54), encoded(54, "PNG")),
        "g_broken": (encoded(55)[:-50], png(indices(55, 3))),
        "h_cut": (encoded(56), png(indices(56, 3))[:-30]),
    }
    for name, (image, annotation) in others.items():
        # Pillow looks at the content, whatever the suffix.
        files = {f"images/training/{name}.jpg": image, f"annotations/training/{name}.png": annotation}
        write_files(root, files)
    write_files(root, {"images/training/alone.jpg": encoded(1)})
    return root


@pytest.fixture(scope="module")
def directory(folder, tmp_path_factory) -> Path:
    dataset = find("ade20k", folder, allow_partial=True)
    assert list(dataset.ignored) == ["images/training/alone.jpg"]
    return prepare(dataset, tmp_path_factory.mktemp("out"), shards=2).directory


def records(directory: Path, split: str) -> list:
    return list(tfds.builder_from_directory(directory).as_data_source(split))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


def test_tfds_reads_it(folder, directory):
    info = tfds.builder_from_directory(directory).info
    assert tuple(info.features["annotation"].names) == NAMES
    assert info.supervised_keys == ("image", "annotation")
    assert {split: info.splits[split].num_examples for split in info.splits} == {"train": 15, "validation": 2}
    for record in records(directory, "validation"):
        number = int(record["file_name"].decode().rsplit("_", 1)[1])
        numbers = indices(99 + number, 3)
        assert record["annotation"].shape == (HEIGHT, WIDTH, 1) and record["annotation"].dtype == np.uint8
        assert np.array_equal(record["annotation"][..., 0], np.where(numbers == 0, 255, numbers - 1))
        assert np.array_equal(record["image"], Image.open(io.BytesIO(encoded(99 + number))))


def test_ours_reads_what_the_folders_hold(folder, directory):
    pairs = ade20k_layout(folder).pairs("train").pairs
    places = {pair.name: place for place, pair in enumerate(pairs)}
    original, source = read_pairs(ade20k_layout(folder), "train"), TfdsSource(directory, "train")
    assert (source.kind, source.class_names, len(source)) == ("segmentation", NAMES, 15)
    names = [record["file_name"].decode() for record in records(directory, "train")]
    assert set(names) == places.keys() - {"d_size", "e_beyond", "f_colours", "g_broken", "h_cut"}
    for index, name in enumerate(names):
        example, expected = source[index], original[places[name]]
        assert example.keys() == expected.keys()
        for key, value in expected.items():
            assert example[key].dtype == value.dtype and np.array_equal(example[key], value)
        assert source.size_of(index) == original.size_of(places[name]) == example["image"].shape[:2]
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again[3]["annotation"], source[3]["annotation"])
    assert TfdsSource(directory, "test", 1)[0]["image"].shape == (HEIGHT, WIDTH, 1)


def test_the_report_counts_and_names(directory):
    report = json.loads((directory / "preparation.json").read_text())["splits"]
    source = TfdsSource(directory, "train")
    held = [sum(bool((source[i]["annotation"] == k).any()) for i in range(15)) for k in range(3)]
    assert report["train"]["records_of_class"] == held and report["train"]["unlabelled"] == 1
    assert report["validation"]["records"] == 2 and report["validation"]["unlabelled"] == 0
    left_out = {reason.split(":")[0]: reason for reason in report["train"]["left_out"]}
    assert left_out.keys() == {"d_size", "e_beyond", "f_colours", "g_broken", "h_cut"}
    assert left_out["d_size"] == "d_size: the annotation is 5x5; expected 24x36 as its image"
    assert left_out["e_beyond"] == "e_beyond: holds the index 4; expected 0..3"
    assert "in colours (RGB)" in left_out["f_colours"]
    assert "not a readable image" in left_out["g_broken"]
    assert "not a readable annotation" in left_out["h_cut"]


def test_a_directory_does_not_depend_on_interruptions(folder, directory, tmp_path, monkeypatch):
    """The sizes come from the notes of shards, of which two of three are kept."""
    dataset = find("ade20k", folder, allow_partial=True)
    original, begun = _Writer._write_shard, []

    def write_shard(self, shard, done, progress):
        begun.append(shard.key)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return original(self, shard, done, progress)

    monkeypatch.setattr(_Writer, "_write_shard", write_shard)
    with pytest.raises(KeyboardInterrupt):
        prepare(dataset, tmp_path, shards=2)
    again = prepare(dataset, tmp_path, shards=2)
    assert begun == ["train-00000", "train-00001", "validation-00000", "validation-00000"]
    assert again.records == {"train": 15, "validation": 2}
    assert contents(again.directory) == contents(directory)
    other = find("ade20k", folder, allow_partial=True)
    with pytest.raises(UserError, match="holds a finished data set of other files"):
        prepare(other, tmp_path, shards=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing; prepare the data set again"),
        ("[]", "is damaged; expected height and width of 15 images of train"),
        ('{"train": [[1, 2]]}', "is damaged"),
        ('{"train": "no"}', "is damaged"),
        ("{", "is no JSON, or damaged"),
    ],
)
def test_sizes_that_are_missing_or_damaged(directory, tmp_path, content, message):
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / "image_sizes.json").unlink()
    if content is not None:
        (copy / "image_sizes.json").write_text(content)
    with pytest.raises(UserError, match=message):
        TfdsSource(copy, "train").size_of(0)


def test_many_classes(tmp_path):
    """Numbers of 16 bits stay what they are."""
    mask = np.array([[0, 255, 299, 65535]], np.uint16)
    files = {
        "images/train/a.png": png(np.zeros((1, 4, 3), np.uint8)),
        "masks/train/a.png": png(mask),
        "classes.txt": "\n".join(f"class {i}" for i in range(300)).encode(),
    }
    write_files(tmp_path / "source", files)
    prepared = prepare(read_segfolder(tmp_path / "source"), tmp_path / "out")
    source = TfdsSource(prepared.directory, "train")
    assert source[0]["annotation"].dtype == np.uint16 and np.array_equal(source[0]["annotation"], mask)
    # Without OpenCV tfds decodes images of 8 bits alone.
    decoders = {"annotation": tfds.decode.SkipDecoding()}
    builder = tfds.builder_from_directory(prepared.directory)
    [record] = builder.as_data_source("train", decoders=decoders)
    assert np.array_equal(Image.open(io.BytesIO(record["annotation"])), mask)


def test_segfolder(tmp_path):
    segfolder(tmp_path / "source")
    for reduce in (False, True):
        dataset = find("segfolder", tmp_path / "source", reduce_zero_label=reduce)
        prepared = prepare(dataset, tmp_path / f"out{reduce}")
        assert prepared.records == {"train": 4, "validation": 2}
        config = tiny_config(**{"data.source": "tfds", "data.path": str(prepared.directory)})
        source = build_source(config, "test")
        layout = segfolder_layout(tmp_path / "source", reduce_zero_label=reduce)
        expected = read_pairs(layout, "test")
        names = [record["file_name"].decode() for record in records(prepared.directory, "validation")]
        for index, name in enumerate(names):
            assert np.array_equal(source[index]["annotation"], expected[int(name)]["annotation"])
    with pytest.raises(UserError, match="holds a finished data set of other files"):
        prepare(dataset, tmp_path / "outFalse")  # The same files, and other numbers.


def test_nothing_is_held_out_unasked(tmp_path):
    segfolder(tmp_path, val=0)
    assert set(read_segfolder(tmp_path).splits) == {"train"}


def test_a_part_of_ade20k_is_refused(folder):
    with pytest.raises(UserError, match=r"found 3 classes of 150, 20 train of 20,210, 2 validation of 2,000"):
        check(read_ade20k(folder), allow_partial=False)


def test_annotations_without_classes_are_refused(directory, tmp_path):
    """As tfds itself stores ADE20K: nothing tells what its numbers mean."""
    copy = shutil.copytree(directory, tmp_path / "copy")
    features = json.loads((copy / "features.json").read_text())
    annotation = features["featuresDict"]["features"]["annotation"]
    annotation["pythonClassName"] = "tensorflow_datasets.core.features.image_feature.Image"
    del annotation["image"]["label"]
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match="has no annotation with names of classes; found"):
        TfdsSource(copy, "train")
