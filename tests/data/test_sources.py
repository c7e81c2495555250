"""Sources of examples: what they hold, in which order, and what they say when it is not there."""

import pickle
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from qsdt_jax.data.sources import DigitsSource, FakeSource, FolderSource
from qsdt_jax.errors import UserError

# Digits


def test_the_split_of_the_digits_is_fixed():
    """A split that moves with a library's version would be another benchmark."""
    labels = {
        split: bytes(example["label"] for example in DigitsSource(split)) for split in ("train", "test")
    }
    assert {split: len(found) for split, found in labels.items()} == {"train": 1437, "test": 360}
    assert {split: zlib.crc32(found) for split, found in labels.items()} == {
        "train": 1299615557,
        "test": 3181927920,
    }


def test_the_splits_share_no_digit_and_miss_none():
    """At the size of the originals the pixels are the originals', in 256 instead of 17 levels."""
    found = sorted(
        (example["image"].tobytes(), example["label"])
        for split in ("train", "test")
        for example in DigitsSource(split, size=8)
    )
    digits = load_digits()
    grey = np.round(digits.images * 255 / 16).astype(np.uint8)
    assert found == sorted((image.tobytes(), label) for image, label in zip(grey, digits.target, strict=True))


def test_an_upscaled_digit():
    small, large = DigitsSource("test", size=8)[3], DigitsSource("test")[3]
    assert large["image"].shape == (32, 32, 1) and large["image"].dtype == np.uint8
    assert type(large["label"]) is int and large["label"] == small["label"]
    means = large["image"].reshape(8, 4, 8, 4).mean((1, 3))
    assert np.corrcoef(means.reshape(-1), small["image"].reshape(-1))[0, 1] > 0.98
    assert DigitsSource("test").class_names == tuple("0123456789")


# Folders


@pytest.fixture
def folder(tmp_path):
    """Two classes with files that a listing gives in another order, and things that are no images."""
    for number, name in enumerate(["dog/b.png", "cat/2.JPEG", "dog/a.jpg", "cat/10.PNG", "cat/x.webp"]):
        file = tmp_path / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        grey = np.full((4, 5), 40 * number, np.uint8)
        Image.fromarray(grey).save(file, "PNG")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("")
    (tmp_path / "train" / "README.png").write_text("")
    return tmp_path


def test_images_of_a_folder(folder):
    source = FolderSource(folder, "train", channels=1)
    assert source.class_names == ("cat", "dog")
    found = [(example["label"], int(example["image"][0, 0, 0])) for example in source]
    assert found == [(0, 120), (0, 40), (0, 160), (1, 80), (1, 0)]  # cat/10, 2, x; dog/a, b.
    assert FolderSource(str(folder), "train")[0]["image"].shape == (4, 5, 3)


def test_a_folder_travels_to_other_processes(folder):
    source = FolderSource(folder, "train")
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 5 and copy.class_names == source.class_names
    assert np.array_equal(copy[2]["image"], source[2]["image"])


def test_folders_that_are_not_there(folder):
    with pytest.raises(UserError) as caught:
        FolderSource(folder, "val")
    assert str(caught.value) == f"{folder}/val is not a folder; expected {folder}/val/CLASS/IMAGE.jpg"
    with pytest.raises(UserError, match="is not a folder"):
        FolderSource(folder / "train" / "README.png", "val")
    (folder / "val").mkdir()
    (folder / "val" / "notes.txt").write_text("")
    with pytest.raises(UserError) as caught:
        FolderSource(folder, "val")
    assert str(caught.value) == f"{folder}/val holds no images; expected {folder}/val/CLASS/IMAGE.jpg"


def test_a_class_without_images(folder):
    """Else the network would have an output that nothing is shown for."""
    (folder / "train" / "eel").mkdir()
    with pytest.raises(UserError) as caught:
        FolderSource(folder, "train")
    assert str(caught.value) == f"{folder}/train/eel: expected images of a class; found nothing"


def test_an_image_that_cannot_be_read_is_named(folder):
    broken = folder / "train" / "cat" / "2.JPEG"
    broken.write_text("no image")
    with pytest.raises(UserError, match=f"^{broken}: not a readable image"):
        FolderSource(folder, "train")[1]


# Fake images


def test_fake_images_are_a_function_of_the_index():
    source, other = FakeSource(50, (4, 5, 2), 7), FakeSource(60, (4, 5, 2), 7)
    for index in (3, 49, 0, 3):
        assert source[index]["image"].shape == (4, 5, 2) and source[index]["image"].dtype == np.uint8
        assert np.array_equal(source[index]["image"], other[index]["image"])
        assert source[index]["label"] == other[index]["label"]
    images = {source[index]["image"].tobytes() for index in range(len(source))}
    assert len(images) == len(source) == 50
    assert {source[index]["label"] for index in range(50)} == set(range(7))
    assert source.class_names == tuple("0123456")


@pytest.mark.parametrize(
    "source", [DigitsSource("test"), FakeSource(5, (4, 5, 2), 7)], ids=["digits", "fake"]
)
def test_sources_travel_to_other_processes(source):
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy[4]["image"], source[4]["image"]) and copy[4]["label"] == source[4]["label"]


def test_fewer_digits_are_the_first_ones_and_the_test_split_is_whole():
    few, whole = DigitsSource("train", images=50), DigitsSource("train")
    assert (len(few), len(whole), len(DigitsSource("test", images=50))) == (50, 1437, 360)
    for i in range(50):
        np.testing.assert_array_equal(few[i]["image"], whole[i]["image"])


def test_noise_of_digits():
    """The same at every reading, of the right size where nothing is clipped, on the 64 pixels of a digit."""
    clean, noisy = (DigitsSource("test", size=8, noise=noise) for noise in (0.0, 0.1))
    pixels = [np.stack([source[i]["image"] for i in range(360)]) / 255 for source in (clean, noisy)]
    inner = np.abs(pixels[0] - 0.5) < 0.1
    assert inner.sum() > 1000
    assert np.std((pixels[1] - pixels[0])[inner]) == pytest.approx(0.1, rel=0.1)
    assert not np.array_equal(noisy[0]["image"] - clean[0]["image"], noisy[1]["image"] - clean[1]["image"])
    again = DigitsSource("test", size=8, noise=0.1)
    assert all(np.array_equal(again[i]["image"], noisy[i]["image"]) for i in range(360))
    assert [noisy[i]["label"] for i in range(360)] == [clean[i]["label"] for i in range(360)]
