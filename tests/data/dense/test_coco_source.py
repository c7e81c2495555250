"""The folders of COCO as a source: examples, which images there are, and what is refused."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from qsdt_jax.assemble.data import build_source
from qsdt_jax.data.class_folders import tell_once
from qsdt_jax.data.dense.coco_source import read_coco_split
from qsdt_jax.data.prepare.digit_scenes import DigitScenes
from qsdt_jax.data.prepare.scene_files import write_scenes
from qsdt_jax.errors import CorruptRecord, UserError
from tests.data.dense.coco_files import HEIGHT, WIDTH, annotation, coco, content, image, write_json
from tests.data.prepare.files import encoded, write_files
from tests.launch.tiny import tiny_config


@pytest.fixture(autouse=True)
def nothing_was_told():
    tell_once.cache_clear()


@pytest.fixture
def root(tmp_path) -> Path:
    coco(tmp_path)
    return tmp_path


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_examples(root):
    source = read_coco_split(root, "train")
    assert len(source) == 4 and source.class_names == ("cat", "dog") and source.split == "train2017"
    for index in range(4):
        example, number = source[index], index + 1
        assert example.keys() == {"image", "index", "boxes", "category", "masks"}
        assert example["image"].shape == (HEIGHT, WIDTH, 3) and example["index"] == index
        assert source.size_of(index) == (HEIGHT, WIDTH)
        assert example["boxes"].dtype == np.float32 and example["category"].dtype == np.int32
        assert example["masks"].dtype == bool and example["masks"].shape == (number, HEIGHT, WIDTH)
        assert example["boxes"].tolist() == [
            [2.5 * j, 1 + j, 2.5 * j + 6.25, 10.5 + j] for j in range(number)
        ]
        assert example["category"].tolist() == [1 - j % 2 for j in range(number)]
        assert_same(pickle.loads(pickle.dumps(source))[index], example)


def test_evaluation_has_images_without_objects(root):
    source = read_coco_split(root, "test", channels=1)
    assert [len(source[i]["boxes"]) for i in range(len(source))] == [0, 1, 2]
    assert source[0]["masks"].shape == (0, HEIGHT, WIDTH) and source[0]["boxes"].shape == (0, 4)
    assert source[0]["image"].shape == (HEIGHT, WIDTH, 1) and source.split == "val2017"


def test_the_truth_is_what_cocos_own_reader_takes(root, capsys):
    for split, file in (("train", "instances_train2017.json"), ("test", "instances_val2017.json")):
        source, reference = read_coco_split(root, split), COCO(root / "annotations" / file)
        ours = COCO()
        ours.dataset = source.truth
        ours.createIndex()
        assert [entry["id"] for entry in source.truth["images"]] == sorted(reference.imgs)
        assert ours.anns.keys() == reference.anns.keys()
        for number, entry in reference.anns.items():
            assert ours.anns[number] == entry
            np.testing.assert_array_equal(ours.annToMask(ours.anns[number]), reference.annToMask(entry))
        for index, number in enumerate(sorted(reference.imgs)):
            masks = [reference.annToMask(a) for a in reference.loadAnns(reference.getAnnIds(number))]
            found = source[index]["masks"]
            np.testing.assert_array_equal(found, np.reshape(masks, found.shape))


def test_training_leaves_out_what_nothing_can_be_learnt_from(tmp_path, caplog):
    """Images without objects, with a crowd alone, with a box of half a pixel; and those without a file."""
    entries = [
        annotation(1, 10),
        annotation(2, 30, iscrowd=1),
        annotation(3, 40, (3, 3, 0.5, 9)),
        annotation(4, 50),
    ]
    value = content([image(number) for number in (10, 20, 30, 40, 50)], entries)
    for split in ("train", "val"):
        file = write_json(tmp_path / "annotations" / f"instances_{split}.json", value)
        write_files(tmp_path / split, {f"{number:04d}.jpg": encoded(number) for number in (10, 20, 30, 40)})
    with caplog.at_level(logging.WARNING, logger="absl"):
        for _ in range(2):
            training = read_coco_split(tmp_path, "train")
    assert [entry["id"] for entry in training.truth["images"]] == [10] and len(training) == 1
    file = tmp_path / "annotations" / "instances_train.json"
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: 1 annotation with boxes or masks smaller than a pixel, not learnt (3 for one)",
        f"{file}: 1 image whose file is not in {tmp_path / 'train'}, left out (0050.jpg for one)",
        f"{file}: 3 images without an object that can be learnt, left out of training",
    ]
    evaluation = read_coco_split(tmp_path, "test")
    assert [entry["id"] for entry in evaluation.truth["images"]] == [10, 20, 30, 40]
    assert [entry["id"] for entry in evaluation.truth["annotations"]] == [1, 2, 3]
    assert [len(evaluation[i]["boxes"]) for i in range(4)] == [1, 0, 0, 0]


def test_images_may_lie_in_folders_and_below_images(tmp_path):
    names = ("a/0010.jpg", "b/0010.jpg")
    value = content(
        [image(i, file_name=n) for i, n in enumerate(names)], [annotation(i, i) for i in range(2)]
    )
    write_json(tmp_path / "annotations" / "instances_train.json", value)
    write_files(tmp_path / "images" / "train", {name: encoded(i) for i, name in enumerate(names)})
    source = read_coco_split(tmp_path, "train")
    assert len(source) == 2 and not np.array_equal(source[0]["image"], source[1]["image"])


def test_scenes_of_digits(tmp_path):
    """What `prepare digit-scenes` writes, read as a user does: the masks are those of the scenes."""
    write_scenes(tmp_path, train=3, test=2, seed=4)
    config = tiny_config()
    config.data.update(source="coco", path=str(tmp_path), channels=3)
    for split, number in (("train", 3), ("test", 2)):
        source = build_source(config, split)
        assert len(source) == number and source.class_names == tuple("0123456789")
        for index in range(number):
            scene, example = DigitScenes(split, 4).scene(index), source[index]
            assert example["image"].shape == scene.image.shape
            assert example["category"].tolist() == [digit.digit for digit in scene.digits]
            np.testing.assert_array_equal(example["masks"], [digit.visible for digit in scene.digits])
            for box, mask in zip(example["boxes"], example["masks"], strict=True):
                rows, columns = np.nonzero(mask)
                expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert tuple(box) == expected


def test_an_image_of_another_size_is_corrupt(root):
    write_json(
        root / "annotations" / "instances_train2017.json",
        content([image(10, width=WIDTH + 1), image(20)], [annotation(1, 10), annotation(2, 20)]),
    )
    source = read_coco_split(root, "train")
    with pytest.raises(CorruptRecord, match="the image is 24x36; expected 24x37 as its entry says"):
        source[0]
    (root / "train2017" / "0020.jpg").write_bytes(b"no image")
    with pytest.raises(CorruptRecord, match="not a readable image"):
        source[1]
    (root / "train2017" / "0020.jpg").unlink()
    with pytest.raises(UserError, match=r"0020.jpg: no such image file"):
        source[1]


def refusal(root, split="train") -> str:
    with pytest.raises(UserError) as caught:
        read_coco_split(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_there_is_told(root, tmp_path):
    assert "expected annotations/instances_train*.json of COCO" in refusal(tmp_path / "nothing")
    (root / "train2017").rename(root / "images2017")
    told = refusal(root)
    assert (
        f"expected its images in {root}/train2017 or {root}/images/train2017" in told and "images2017" in told
    )
    (root / "train2017").mkdir()
    assert "with objects; found none of 4" in refusal(root)
    coco(root, year="2014")
    assert "found instances_train2014.json, instances_train2017.json" in refusal(root)
    (root / ".preparing").mkdir()
    assert "is not finished" in refusal(root)
    config = tiny_config()
    config.data.source = "coco"
    with pytest.raises(UserError, match=r"config.data.path is empty; coco needs the folder"):
        build_source(config, "train")
