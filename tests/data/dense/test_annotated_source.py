"""Folders of images and annotations: which belong together, what examples hold, and what is refused."""

import io
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.assemble.data import build_source, build_training_source
from qsdt_jax.data.class_folders import tell_once
from qsdt_jax.data.dense.annotated_source import read_pairs
from qsdt_jax.data.dense.segmentation_folders import ade20k_layout, segfolder_layout
from qsdt_jax.errors import CorruptRecord, UserError
from tests.data.dense.segmentation_files import HEIGHT, NAMES, WIDTH, ade20k, indices, png, segfolder, table
from tests.data.prepare.files import encoded, write_files
from tests.launch.tiny import tiny_config


@pytest.fixture(autouse=True)
def nothing_was_told():
    tell_once.cache_clear()


@pytest.fixture
def ade(tmp_path) -> Path:
    ade20k(tmp_path)
    return tmp_path


@pytest.fixture
def own(tmp_path) -> Path:
    segfolder(tmp_path)
    return tmp_path


def refusal(read) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ade20k(ade):
    """Number 0 is ignored, number k is class k - 1."""
    for split, number, start in (("train", 5, 0), ("test", 2, 100)):
        source = read_pairs(ade20k_layout(ade), split)
        assert len(source) == number and source.class_names == NAMES
        for i in range(number):
            example = source[i]
            numbers = indices(start + i, 3)
            assert example["annotation"].dtype == np.uint8
            assert np.array_equal(example["annotation"], np.where(numbers == 0, 255, numbers - 1))
            image = np.asarray(Image.open(io.BytesIO(encoded(start + i))))
            assert np.array_equal(example["image"], image)
            assert source.size_of(i) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("above", [1, 2])
def test_ade20k_may_lie_deeper(tmp_path, above):
    root = tmp_path.joinpath(*["ADEChallengeData2016", "release"][:above])
    ade20k(root)
    assert len(read_pairs(ade20k_layout(tmp_path), "train", 1)) == 5
    assert read_pairs(ade20k_layout(tmp_path), "train", 1)[0]["image"].shape == (HEIGHT, WIDTH, 1)


def test_without_its_table_the_classes_of_ade20k_are_numbers(ade):
    (ade / "objectInfo150.txt").unlink()
    assert ade20k_layout(ade).class_names == tuple(str(i) for i in range(1, 151))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Idx Name\n", "found Idx of no line"),
        (b"Idx\tName\n2\ta\n", "with Idx from 1 on; found Idx 2"),
        (table(("a", "b", "a")), "has the class 'a' twice"),
        (b"\xff\xfe\0", "cannot be read"),
    ],
)
def test_a_table_that_is_none(ade, content, message):
    (ade / "objectInfo150.txt").write_bytes(content)
    told = refusal(lambda: ade20k_layout(ade))
    assert told.startswith(f"{ade}/objectInfo150.txt") and message in told


def test_ade20k_that_is_not_there(tmp_path):
    write_files(tmp_path, {"ADE20K.zip": b""})
    told = refusal(lambda: ade20k_layout(tmp_path))
    assert told.startswith(f"{tmp_path}: expected images/training/NAME.jpg") and told.endswith(
        "found ADE20K.zip"
    )
    ade20k(tmp_path / "a")
    ade20k(tmp_path / "b")
    assert "holds ADE20K several times" in refusal(lambda: ade20k_layout(tmp_path))


def test_scenes_that_are_not_finished(ade):
    (ade / ".preparing").mkdir()
    assert "is not finished" in refusal(lambda: ade20k_layout(ade))


def test_a_split_that_is_missing(tmp_path):
    ade20k(tmp_path, validation=0)
    told = refusal(lambda: read_pairs(ade20k_layout(tmp_path), "test"))
    assert told.startswith(f"{tmp_path}/images/validation is no folder; expected") and "training" in told
    (tmp_path / "images" / "validation").mkdir()
    assert f"{tmp_path}/annotations/validation is no folder" in refusal(
        lambda: read_pairs(ade20k_layout(tmp_path), "test")
    )
    (tmp_path / "annotations" / "validation").mkdir()
    assert "found 0 images (nothing) and 0 annotations (nothing)" in refusal(
        lambda: read_pairs(ade20k_layout(tmp_path), "test")
    )


def test_a_pair_of_folders(own):
    source = read_pairs(segfolder_layout(own), "train")
    assert source.class_names == ("cat", "dog") and len(source) == 4
    numbers = indices(0, 2)
    assert np.array_equal(source[0]["annotation"], np.where(numbers == 2, 255, numbers))
    reduced = read_pairs(segfolder_layout(own, reduce_zero_label=True), "train")
    expected = np.where(numbers == 1, 0, 255)
    assert np.array_equal(reduced[0]["annotation"], expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected the names of the classes, one a line; "),
        (b"", "line 1 is empty"),
        (b"cat\n\ndog\n", "line 2 is empty; expected the name of a class"),
        (b"cat\ndog\ncat", "has the class 'cat' twice"),
        ("\n".join(map(str, range(65_535))).encode(), "names 65,535 classes; expected at most 65,534"),
    ],
)
def test_a_list_of_classes_that_is_none(own, content, message):
    (own / "classes.txt").unlink()
    if content is not None:
        (own / "classes.txt").write_bytes(content)
    told = refusal(lambda: segfolder_layout(own))
    assert told.startswith(f"{own}/classes.txt") and message in told


def test_names_as_windows_writes_them(own):
    (own / "classes.txt").write_bytes("\ufeffcat\r\nde\u0301ja\r\n".encode())
    assert segfolder_layout(own).class_names == ("cat", "d\u00e9ja")


def test_pairs_are_found_by_their_names_at_any_depth(tmp_path):
    image, mask = encoded(0), png(indices(0, 1))
    names = ["10", "9", "town/a.b", "town/B"]
    suffixes = [".JPG", ".png", ".webp", ".tif"]
    for name, suffix in zip(names, suffixes, strict=True):
        write_files(tmp_path, {f"images/train/{name}{suffix}": image, f"masks/train/{name}.PNG": mask})
    write_files(tmp_path, {"classes.txt": b"a\nb\n"})
    found = segfolder_layout(tmp_path).pairs("train")
    assert [pair.name for pair in found.pairs] == ["10", "9", "town/B", "town/a.b"]
    assert [Path(pair.annotation).name for pair in found.pairs] == ["10.PNG", "9.PNG", "B.PNG", "a.b.PNG"]


def test_what_is_left_out_is_told_once(own, caplog):
    rest = {
        "images/train/alone.jpg": encoded(1),
        "masks/train/widow.png": png(indices(0, 1)),
        "masks/train/1.jpg": encoded(1),
        "images/train/notes.txt": b"",
        "images/train/.DS_Store": b"",
    }
    write_files(own, rest)
    with caplog.at_level(logging.WARNING, logger="absl"):
        for _ in range(2):
            assert len(read_pairs(segfolder_layout(own), "train")) == 4
    where = f"{own}/images/train and {own}/masks/train"
    assert [record.getMessage() for record in caplog.records] == [
        "ignored: images/train/notes.txt, masks/train/1.jpg (2 not taken for images or annotations), "
        "images/train/.DS_Store (1 hidden), "
        f"in {where}",
        f"ignored: 2 files without image or annotation (images/train/alone.jpg for one), in {where}",
    ]


def test_two_images_for_one_annotation(own):
    write_files(own, {"images/train/1.png": encoded(1, "PNG")})
    told = refusal(lambda: segfolder_layout(own).pairs("train"))
    assert told.startswith(f"{own}/images/train holds 1.jpg and 1.png; expected names")


def test_it_travels_to_other_processes_and_keeps_its_files(own):
    source = read_pairs(segfolder_layout(own), "train")
    source[0]
    write_files(own, {"images/train/00.jpg": encoded(7), "masks/train/00.png": png(indices(7, 1))})
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 4 and again.class_names == source.class_names
    assert all(np.array_equal(again[0][key], source[0][key]) for key in ("image", "annotation"))


# Bad files


def test_images_of_one_pixel(tmp_path):
    write_files(
        tmp_path,
        {
            "images/train/a.png": png(np.full((1, 1, 3), 7, np.uint8)),
            "masks/train/a.png": png(np.ones((1, 1), np.uint8)),
            "classes.txt": b"a\nb\n",
        },
    )
    source = read_pairs(segfolder_layout(tmp_path), "train")
    assert source.size_of(0) == (1, 1)
    assert source[0]["image"].tolist() == [[[7, 7, 7]]] and source[0]["annotation"].tolist() == [[1]]


def test_images_of_sixteen_bits(own):
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    (own / "images" / "train" / "0.jpg").write_bytes(png(deep))
    image = read_pairs(segfolder_layout(own), "train", 1)[0]["image"]
    assert np.array_equal(image[..., 0], np.round(deep / 257))


def test_images_without_a_labelled_pixel_are_counted(own, caplog):
    nothing = png(np.full((HEIGHT, WIDTH), 255, np.uint8))
    for i in range(11):
        write_files(own, {f"images/train/x{i:02d}.jpg": encoded(i), f"masks/train/x{i:02d}.png": nothing})
    source = read_pairs(segfolder_layout(own), "train")
    with caplog.at_level(logging.WARNING, logger="absl"):
        for i in (*range(len(source)), 4):
            source[i]
    assert (source[14]["annotation"] == 255).all()
    folder = own / "images" / "train"
    assert [record.getMessage() for record in caplog.records] == [
        f"no pixel of {folder}/x00.jpg is labelled; 1 such image so far",
        f"no pixel of {folder}/x09.jpg is labelled; 10 such images so far",
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("masks/train/1.png", png(indices(0, 1, 5, 5)), "the annotation is 5x5; expected 24x36 as its image"),
        ("masks/train/1.png", png(indices(0, 9)), "holds the index"),
        ("masks/train/1.png", encoded(0, "PNG"), "an annotation in colours (RGB)"),
        ("masks/train/1.png", png(indices(0, 1))[:-40], "not a readable annotation"),
        ("images/train/1.jpg", encoded(1)[:-50], "not a readable image"),
    ],
)
def test_what_does_not_fit_is_a_corrupt_record(own, file, content, message):
    """Training skips it up to a limit, evaluation does not."""
    (own / file).write_bytes(content)
    source = read_pairs(segfolder_layout(own), "train")
    with pytest.raises(CorruptRecord) as caught:
        source[1]
    assert str(caught.value).startswith(f"{own}/{file}: {message}")
    config = tiny_config(**{"data.source": "segfolder", "data.path": str(own), "data.corrupt_limit": 1})
    training = build_training_source(config)
    assert np.array_equal(training[1]["annotation"], training[2]["annotation"])
    with pytest.raises(CorruptRecord):
        build_source(config, "train")[1]


def test_files_that_are_gone_are_no_corrupt_records(own):
    source = read_pairs(segfolder_layout(own), "train")
    (own / "masks" / "train" / "1.png").unlink()
    (own / "images" / "train" / "2.jpg").unlink()
    for read in (lambda: source[1], lambda: source[2], lambda: source.size_of(2)):
        with pytest.raises(UserError, match="no such") as caught:
            read()
        assert not isinstance(caught.value, CorruptRecord)


def test_sizes_are_read_from_the_beginning_of_a_file(own):
    file = own / "images" / "train" / "1.jpg"
    file.write_bytes(file.read_bytes()[:-20])
    source = read_pairs(segfolder_layout(own), "train")
    assert source.size_of(1) == (HEIGHT, WIDTH)
    file.write_bytes(b"no image")
    with pytest.raises(CorruptRecord, match=f"{file}: not a readable image"):
        source.size_of(1)


# By configuration


def test_by_configuration(tmp_path):
    ade20k(tmp_path / "ade")
    segfolder(tmp_path / "own")
    config = tiny_config(**{"data.source": "ade20k", "data.path": str(tmp_path / "ade")})
    assert [len(build_source(config, split)) for split in ("train", "test")] == [5, 2]
    assert build_source(config, "test")[0]["image"].shape == (HEIGHT, WIDTH, 1)
    own = {"data.source": "segfolder", "data.path": str(tmp_path / "own")}
    plain, reduced = (
        build_source(tiny_config(**own, **{"data.reduce_zero_label": reduce}), "train")[0]["annotation"]
        for reduce in (False, True)
    )
    assert set(np.unique(plain)) == {0, 1, 255} and set(np.unique(reduced)) == {0, 255}
    for source in ("ade20k", "tfds"):
        others = {"data.source": source, "data.path": str(tmp_path / "ade"), "data.reduce_zero_label": True}
        assert refusal(lambda o=others: build_source(tiny_config(**o), "test")).startswith(
            "config.data.reduce_zero_label=True is of segfolder; expected False with "
            f"config.data.source='{source}'"
        )
    for source in ("ade20k", "segfolder"):
        assert "config.data.path is empty" in refusal(
            lambda s=source: build_source(tiny_config(**{"data.source": s, "data.path": ""}), "train")
        )
