"""Any folder of class folders."""

from pathlib import Path

import pytest

from qsdt_jax.data.prepare.imagefolder import read_imagefolder
from qsdt_jax.data.prepare.records import check
from qsdt_jax.errors import UserError
from tests.data.prepare.files import class_folder, write_files

CLASSES = ("ant", "bee")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        check(read_imagefolder(folder), allow_partial=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val"), {"train", "validation"}),
        (("train", "validation"), {"train", "validation"}),
        (("train", "test"), {"train", "test"}),
        (("train", "valid", "test"), {"train", "validation", "test"}),
        (("train",), {"train"}),
    ],
)
def test_splits(tmp_path, folders, splits):
    for folder in folders:
        class_folder(tmp_path / folder, CLASSES, 2)
    dataset = read_imagefolder(tmp_path)
    assert set(dataset.splits) == splits
    assert list(dataset.class_names) == list(CLASSES)
    expected = [("ant/0.JPEG", 0), ("ant/1.JPEG", 0), ("bee/0.JPEG", 1), ("bee/1.JPEG", 1)]
    for records in dataset.splits.values():
        assert [(r.name, r.label) for r in records] == expected


def test_without_splits_all_images_train(tmp_path):
    class_folder(tmp_path, CLASSES, 3)
    assert {split: len(records) for split, records in read_imagefolder(tmp_path).splits.items()} == {
        "train": 6
    }


def test_files_that_are_no_images_are_named(tmp_path):
    class_folder(tmp_path / "train", CLASSES, 1)
    write_files(tmp_path / "train", {"list.csv": b"", "ant/Thumbs.db": b"", "ant/.hidden.jpg": b""})
    (tmp_path / "train" / "bee" / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    expected = ["train/ant/Thumbs.db", "train/bee/lost.jpg", "train/list.csv"]
    assert sorted(read_imagefolder(tmp_path).ignored) == expected


def test_held_out_classes_may_be_fewer_and_never_more(tmp_path):
    class_folder(tmp_path / "train", CLASSES, 1)
    class_folder(tmp_path / "val", CLASSES[1:], 1)
    assert [r.label for r in read_imagefolder(tmp_path).splits["validation"]] == [1]
    class_folder(tmp_path / "val", ("cow",), 1)
    assert "class 'cow' of the validation split has no training images" in refusal(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("file", ["", "notes.txt"])
def test_a_class_without_images(tmp_path, split, file):
    """As a copy that was broken off leaves it; else the class would be missing without a word."""
    class_folder(tmp_path / "train", CLASSES, 1)
    class_folder(tmp_path / "val", CLASSES, 1)
    empty = tmp_path / split / "cow"
    empty.mkdir()
    if file:
        write_files(empty, {file: b""})
    assert refusal(tmp_path) == f"{empty}: expected images of a class; found {file or 'nothing'}"


def test_the_same_split_twice(tmp_path):
    for folder in ("train", "val", "validation"):
        class_folder(tmp_path / folder, CLASSES, 1)
    assert refusal(tmp_path).endswith("holds the validation split twice: val, validation")


def test_nothing_there(tmp_path):
    assert "expected SOURCE/train/CLASS/IMAGE.jpg" in refusal(tmp_path)
    write_files(tmp_path, {"a.jpg": b"", "b.jpg": b""})
    assert refusal(tmp_path).endswith("found a.jpg, b.jpg")


def test_held_out_split_without_images(tmp_path):
    class_folder(tmp_path / "train", CLASSES, 1)
    (tmp_path / "val").mkdir()
    assert "the validation split has no records" in refusal(tmp_path)


@pytest.mark.parametrize("name", [" ant", "ant\n", "a\x07nt"])
def test_class_names_that_cannot_be_stored(tmp_path, name):
    """The text file of tfds has one name a line, without the spaces around it."""
    class_folder(tmp_path, (name, "bee"), 1)
    assert f"{name!r} is no class name that can be stored" in refusal(tmp_path)
