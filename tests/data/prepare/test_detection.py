"""Images with objects as tfds directories, read by tfds and by ours: COCO's files and VOC's."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pycocotools.coco import COCO

from launch.prepare import find, summary
from qsdt_jax.assemble.data import build_source
from qsdt_jax.data.dense.coco_source import read_coco_split
from qsdt_jax.data.prepare.plan import make_plan
from qsdt_jax.data.prepare.writer import prepare
from qsdt_jax.data.tfds_source import TfdsSource
from qsdt_jax.errors import CorruptRecord, UserError
from tests.data.dense.coco_files import HEIGHT, WIDTH, annotation, coco, content, image, write_json
from tests.data.prepare.files import encoded, write_files
from tests.launch.tiny import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """COCO of a few images; one of evaluation has a crowd and boxes that are not exact in 32 bits."""
    root = tmp_path_factory.mktemp("coco")
    coco(root, train=6)
    file = root / "annotations" / "instances_val2017.json"
    value = json.loads(file.read_text())
    value["annotations"] += [
        annotation(
            900, 25, (0.1, 0.2, 35.3, 9.7), iscrowd=1, segmentation={"size": [24, 36], "counts": [1, 863]}
        ),
        annotation(901, 25, (1.1, 2.3, 40.7, 0.9), area=0.123456789),
    ]
    write_json(file, value)
    return root


@pytest.fixture(scope="module")
def directory(folder, tmp_path_factory) -> Path:
    return prepare(find("coco", folder), tmp_path_factory.mktemp("out"), shards=2).directory


def test_tfds_reads_it(folder, directory):
    """With the features that it has for COCO itself."""
    builder = tfds.builder_from_directory(directory)
    assert tuple(builder.info.features["objects"].feature["label"].names) == ("cat", "dog")
    splits = {split: builder.info.splits[split].num_examples for split in builder.info.splits}
    assert splits == {"train": 6, "validation": 3}
    source = read_coco_split(folder, "test")
    entries = {entry["id"]: entry for entry in source.truth["images"]}
    seen = set()
    for record in builder.as_data_source("validation"):
        number = int(record["image/id"])
        assert record["image/filename"].decode() == entries[number]["file_name"]
        assert record["image"].shape == (HEIGHT, WIDTH, 3)
        expected = [entry for entry in source.truth["annotations"] if entry["image_id"] == number]
        objects = record["objects"]
        assert list(objects["id"]) == [entry["id"] for entry in expected]
        assert list(objects["is_crowd"]) == [bool(entry["iscrowd"]) for entry in expected]
        assert list(objects["area"]) == [round(entry["area"]) for entry in expected]
        for box, entry in zip(objects["bbox"], expected, strict=True):
            x, y, width, height = entry["bbox"]
            share = np.clip([y / 24, x / 36, (y + height) / 24, (x + width) / 36], 0, 1)
            np.testing.assert_allclose(box, share, atol=1e-6)
        seen.add(number)
    assert seen == set(entries)


@pytest.mark.parametrize("split", ["train", "test"])
def test_ours_gives_what_the_folders_give(folder, directory, split, capsys):
    original = read_coco_split(folder, split)
    config = tiny_config()
    config.data.update(source="tfds", path=str(directory), channels=3)
    source = build_source(config, split)
    assert source.kind == "detection" and source.class_names == original.class_names
    places = {entry["id"]: place for place, entry in enumerate(original.truth["images"])}
    order = [places[entry["id"]] for entry in source.truth["images"]]
    assert sorted(order) == list(range(len(original)))
    for index, place in enumerate(order):
        example, expected = source[index], original[place]
        assert example.keys() == expected.keys() and example["index"] == index
        for name in ("image", "boxes", "category", "masks"):
            assert example[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(example[name], expected[name])
        assert source.size_of(index) == original.size_of(place)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[1]["masks"], source[1]["masks"])
    _same_truth(source.truth, original.truth)


def _same_truth(one, other):
    """All that is scored, but for polygons that have become codes of the same pixels."""
    assert one["categories"] == other["categories"]
    ours, theirs = COCO(), COCO()
    ours.dataset, theirs.dataset = one, other
    ours.createIndex(), theirs.createIndex()
    assert ours.imgs == theirs.imgs and ours.anns.keys() == theirs.anns.keys()
    for number, entry in theirs.anns.items():
        found = ours.anns[number]
        assert {**found, "segmentation": 0} == {**entry, "segmentation": 0}
        np.testing.assert_array_equal(ours.annToMask(found), theirs.annToMask(entry))


def test_the_report_counts(directory):
    report = json.loads((directory / "preparation.json").read_text())["splits"]
    assert report["train"]["records_of_class"] == [5, 6] and report["train"]["left_out"] == []
    # Of three images of evaluation the first has no objects; crowds do not count.
    assert report["validation"]["records"] == 3 and report["validation"]["records_of_class"] == [1, 2]
    assert json.loads((directory / "categories.json").read_text()) == [3, 7]


def test_a_record_of_another_size_is_left_out(folder, tmp_path, capsys):
    coco(tmp_path / "source")
    write_json(
        tmp_path / "source" / "annotations" / "instances_train2017.json",
        content([image(10, width=WIDTH + 1), image(20), image(30)], [annotation(i, i) for i in (10, 20, 30)]),
    )
    (tmp_path / "source" / "train2017" / "0020.jpg").write_bytes(encoded(1)[:-60])
    dataset = find("coco", tmp_path / "source")
    prepared = prepare(dataset, tmp_path / "out")
    assert len(prepared.left_out["train"]) == 2 and prepared.records["train"] == 1
    assert any("0010.jpg: the image is 24x36; expected 24x37" in line for line in prepared.left_out["train"])
    assert "--config.data.source=tfds" in summary(dataset, prepared)


def test_what_the_objects_are_is_part_of_the_plan(tmp_path):
    """A directory that was prepared from other boxes is not taken for finished."""
    coco(tmp_path)
    before = make_plan(find("coco", tmp_path)).fingerprint
    assert make_plan(find("coco", tmp_path)).fingerprint == before
    file = tmp_path / "annotations" / "instances_val2017.json"
    value = json.loads(file.read_text())
    value["annotations"][0]["bbox"][0] += 0.5
    write_json(file, value)
    assert make_plan(find("coco", tmp_path)).fingerprint != before


def test_splits_have_the_same_categories(tmp_path):
    coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    value = json.loads(file.read_text())
    value["categories"][0]["name"] = "cow"
    write_json(file, value)
    with pytest.raises(UserError, match="the splits have different categories"):
        find("coco", tmp_path)


def test_damaged_directories_are_told(directory, tmp_path):
    copy = tmp_path / "coco" / "1.0.0"
    shutil.copytree(directory, copy)
    (copy / "categories.json").write_text("[1]")
    with pytest.raises(UserError, match=r"categories.json is missing or damaged; expected the numbers of 2"):
        _ = TfdsSource(copy, "test").truth
    sizes = json.loads((copy / "image_sizes.json").read_text())
    sizes["train"] = [[5, 5]] * 6
    (copy / "image_sizes.json").write_text(json.dumps(sizes))
    with pytest.raises(CorruptRecord, match="the image is 24x36; expected 5x5"):
        TfdsSource(copy, "train")[0]


# VOC


def xml(objects, height=HEIGHT, width=WIDTH) -> bytes:
    entries = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{size}{entries}</annotation>".encode()


VOC = {
    "a": [("dog", (1, 1, WIDTH, HEIGHT), 0), ("cat", (3, 4, 10, 12), 1)],
    "b": [("cat", (5, 6, 7, 8), 0), ("cat", (9, 9, 8, 12), 0)],
    "c": [("dog", (2, 2, 9, 9), 1)],  # Nothing to learn.
    "d": [("bird", (3, 3, 20, 20), 0)],
    "e": [],
}


@pytest.fixture
def voc(tmp_path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for seed, (name, objects) in enumerate(VOC.items()):
        write_files(root, {f"JPEGImages/{name}.jpg": encoded(seed), f"Annotations/{name}.xml": xml(objects)})
    write_files(
        root, {"ImageSets/Main/train.txt": b"a\nb  1\nc\nmissing\n", "ImageSets/Main/val.txt": b"d\ne\n"}
    )
    return tmp_path


def test_voc(voc, tmp_path, capsys):
    """Boxes from pixels counted from 1, masks that are boxes, difficult ones as crowds."""
    dataset = find("voc", voc)
    root = voc / "VOCdevkit" / "VOC2012"
    assert dataset.class_names == ["bird", "cat", "dog"]
    assert list(dataset.told) == [
        f"{root}: there are no masks; all of a box is taken for that of its object",
        f"{root}: 1 names of the train split have no image or no annotation, left out (missing for one)",
        f"{root}: 1 objects with boxes without area, left out",
        f"{root}: 1 image without an object that can be learnt, left out of training",
    ]
    directory = prepare(dataset, tmp_path / "out").directory
    training, evaluation = TfdsSource(directory, "train"), TfdsSource(directory, "test")
    found = {entry["file_name"]: training[i] for i, entry in enumerate(training.truth["images"])}
    assert found.keys() == {"a.jpg", "b.jpg"}
    assert found["a.jpg"]["boxes"].tolist() == [[0, 0, WIDTH, HEIGHT]]
    assert found["a.jpg"]["masks"].all() and found["a.jpg"]["category"].tolist() == [2]
    assert found["b.jpg"]["boxes"].tolist() == [[4, 5, 7, 8]] and found["b.jpg"]["masks"].sum() == 9
    crowds = [entry["bbox"] for entry in training.truth["annotations"] if entry["iscrowd"]]
    assert crowds == [[2, 3, 8, 9]]
    assert sorted(len(evaluation[i]["boxes"]) for i in range(2)) == [0, 1]
    assert [entry["id"] for entry in evaluation.truth["categories"]] == [1, 2, 3]
    numbers = [e["id"] for s in (training, evaluation) for e in s.truth["annotations"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (b"<annotation>", "a.xml is no XML, or damaged"),
        (xml([], height=0), "a.xml: an image of 0x36; expected sides of 1 to"),
        (xml([("dog", ("x", 1, 2, 3), 0)]), "object has bndbox/xmin='x'; expected a number of pixels"),
        (xml([("dog", ("1e99", 1, 2, 3), 0)]), "object has bndbox/xmin='1e99'; expected a number of pixels"),
        (xml([(" ", (1, 1, 2, 3), 0)]), "a.xml: an object has no name"),
        (b"<annotation></annotation>", "annotation has size/height=None; expected a number"),
    ],
)
def test_corrupt_annotations_of_voc_are_refused(voc, written, told):
    (voc / "VOCdevkit" / "VOC2012" / "Annotations" / "a.xml").write_bytes(written)
    with pytest.raises(UserError) as caught:
        find("voc", voc)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_voc_needs_its_folders_and_a_list(voc):
    (voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(UserError, match=r"expected train.txt or trainval.txt; found val.txt"):
        find("voc", voc)
    with pytest.raises(UserError, match="expected JPEGImages, Annotations and ImageSets/Main of VOC"):
        find("voc", voc / "VOCdevkit" / "VOC2012" / "Annotations")
