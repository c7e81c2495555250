"""Scenes of digits: what is in them, and the files in the layouts of ADE20K and COCO."""

import json

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.data.prepare import scene_files
from qsdt_jax.data.prepare.canvas import LETTERS, clutter
from qsdt_jax.data.prepare.digit_scenes import (
    BACKGROUND,
    CONTRAST,
    HEIGHTS,
    SIDES,
    UNLABELLED,
    VISIBLE,
    DigitScenes,
    digit_shape,
)
from qsdt_jax.data.prepare.scene_files import CATEGORIES, run_lengths, write_scenes
from qsdt_jax.data.sources import DigitsSource
from qsdt_jax.errors import UserError

SCENES = 30


@pytest.fixture(scope="module")
def scenes():
    return [DigitScenes("train", seed=3).scene(index) for index in range(SCENES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    write_scenes(out, train=5, test=3, seed=3)
    return out


def test_a_scene_is_a_function_of_seed_split_and_index(scenes):
    again = DigitScenes("train", seed=3).scene(4)
    assert np.array_equal(again.image, scenes[4].image)
    assert np.array_equal(again.annotation, scenes[4].annotation)
    others = [DigitScenes("test", 3).scene(4), DigitScenes("train", 4).scene(4), scenes[5]]
    assert all(other.image.tobytes() != scenes[4].image.tobytes() for other in others)


def test_the_annotation_shows_what_is_seen_of_each_digit(scenes):
    """Every pixel of a digit's class is one that a digit of that class has, and none is forgotten."""
    for scene in scenes:
        expected = np.full(scene.annotation.shape, BACKGROUND, np.uint8)
        for digit, visible in scene.digits:
            assert (expected[visible] == BACKGROUND).all()  # No two digits have the same pixel.
            expected[visible] = 2 + digit
        labelled = scene.annotation != UNLABELLED
        assert np.array_equal(scene.annotation[labelled], expected[labelled])
        assert 0 < (~labelled).mean() < 0.1


def test_sizes_and_numbers_vary(scenes):
    sides = {side for scene in scenes for side in scene.annotation.shape}
    assert SIDES[0] <= min(sides) < 105 and 150 < max(sides) <= SIDES[1]
    numbers = {len(scene.digits) for scene in scenes}
    assert min(numbers) == 1 and 6 <= max(numbers) <= 8
    heights = [np.ptp(np.nonzero(d.visible)[0]) + 1 for scene in scenes for d in scene.digits]
    assert VISIBLE * HEIGHTS[0] / 2 < min(heights) < 35 and 70 < max(heights) <= HEIGHTS[1] + 4


def test_digits_differ_from_what_is_around_them(scenes):
    """The mean colour of a lone digit is far from that of the pixels that it does not cover, in its box."""
    assert sum(len(scene.digits) == 1 for scene in scenes) > 2
    for scene in scenes:
        if len(scene.digits) == 1:
            [(_, visible)] = scene.digits
            rows, columns = np.nonzero(visible)
            box = np.zeros_like(visible)
            box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
            colour = scene.image[visible].mean(0)
            around = scene.image[box & (scene.annotation == BACKGROUND)].astype(float)
            distances = np.linalg.norm(around - colour, axis=-1)
            assert np.quantile(distances, 0.3) > 0.7 * CONTRAST


@pytest.mark.parametrize("height", [28, 80])
def test_the_shape_is_that_of_the_digit(height):
    """Scaled down again, the share that is covered is large where there was ink, and small elsewhere."""
    for index in range(20):
        ink = DigitsSource("test", 8)[index]["image"][..., 0]
        shape = digit_shape(ink, height)
        assert abs(shape.shape[0] - height) <= 0.15 * height + 1
        rows, columns = np.nonzero(ink > ink.max() / 2)
        inked = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        small = Image.fromarray((255 * shape).astype(np.uint8)).resize(
            inked.shape[::-1], Image.Resampling.BOX
        )
        if min(inked.shape) > 2:
            assert np.corrcoef(np.asarray(small).reshape(-1), inked.reshape(-1))[0, 1] > 0.75


def test_no_digit_of_a_validation_scene_is_in_a_training_scene(scenes):
    assert DigitScenes("test")._digits.split == "test" and DigitScenes("train")._digits.split == "train"


def test_clutter_is_never_empty():
    covers = [clutter(np.random.default_rng(i), 96, 150) for i in range(200)]
    assert {cover.shape for cover in covers} == {(96, 150)}
    assert all(0 < cover.max() <= 1 and cover.min() >= 0 for cover in covers)
    assert not set(LETTERS) & set("BDIOQSZ")  # Which digits resemble.


# Files


def test_layout_of_ade20k(folder):
    for split, name, number in (("training", "train", 5), ("validation", "val", 3)):
        scenes = DigitScenes("train" if name == "train" else "test", 3)
        names = [f"scene_{name}_{i + 1:08d}" for i in range(number)]
        assert sorted(f.name for f in (folder / "images" / split).iterdir()) == [f"{n}.jpg" for n in names]
        for index, stem in enumerate(names):
            scene = scenes.scene(index)
            with Image.open(folder / "annotations" / split / f"{stem}.png") as annotation:
                assert annotation.mode == "L" and np.array_equal(annotation, scene.annotation)
            image = np.asarray(Image.open(folder / "images" / split / f"{stem}.jpg"), float)
            assert image.shape == scene.image.shape and np.abs(image - scene.image).mean() < 8


def test_names_of_the_classes(folder):
    header, *lines = (folder / "objectInfo150.txt").read_text().splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    assert [row["Idx"] for row in rows] == [str(i) for i in range(1, 12)]
    assert [row["Name"] for row in rows] == ["background", *"0123456789"]
    training = [DigitScenes("train", 3).scene(i).annotation for i in range(5)]
    labelled = sum(np.count_nonzero(annotation) for annotation in training)
    for value, row in enumerate(rows, start=1):
        assert int(row["Train"]) == sum(bool((annotation == value).any()) for annotation in training)
        share = sum(np.count_nonzero(annotation == value) for annotation in training) / labelled
        assert float(row["Ratio"]) == pytest.approx(share, abs=1e-4)


def test_layout_of_coco(folder):
    """Read as COCO's own tools do: masks down the columns, boxes around them, all by their numbers."""
    seen = set()
    for name, number in (("train", 5), ("val", 3)):
        content = json.loads((folder / "annotations" / f"instances_{name}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        assert names == {number: str(digit) for digit, number in enumerate(CATEGORIES)}
        images = {image["id"]: image for image in content["images"]}
        assert len(images) == number and 1 not in images and not seen & images.keys()
        seen |= images.keys()
        found = {image: [] for image in images}
        for entry in content["annotations"]:
            found[entry["image_id"]].append(entry)
        assert len({entry["id"] for entry in content["annotations"]}) == len(content["annotations"])
        scenes = DigitScenes("train" if name == "train" else "test", 3)
        for index, (image, entries) in enumerate(found.items()):
            scene = scenes.scene(index)
            with Image.open(folder / name / images[image]["file_name"]) as picture:
                assert picture.size == (images[image]["width"], images[image]["height"])
            assert len(entries) == len(scene.digits)
            for entry, (digit, visible) in zip(entries, scene.digits, strict=True):
                assert names[entry["category_id"]] == str(digit) and entry["iscrowd"] == 0
                height, width = entry["segmentation"]["size"]
                flat, value = [], 0
                for run in entry["segmentation"]["counts"]:
                    flat += [value] * run
                    value = 1 - value
                mask = np.array(flat).reshape(width, height).T
                assert np.array_equal(mask, visible) and entry["area"] == mask.sum()
                x, y, w, h = map(int, entry["bbox"])
                assert mask[y : y + h, x : x + w].sum() == mask.sum()
                assert mask[y, x : x + w].any() and mask[y + h - 1, x : x + w].any()
                assert mask[y : y + h, x].any() and mask[y : y + h, x + w - 1].any()


def test_run_lengths_of_masks():
    assert run_lengths(np.array([[False, True], [False, False]])) == [2, 1, 1]  # Column after column.
    assert run_lengths(np.array([[True, False], [False, False]])) == [0, 1, 3]
    assert run_lengths(np.zeros((2, 3), bool)) == [6]


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_second_call_changes_nothing_and_one_of_other_scenes_is_refused(folder):
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert write_scenes(folder, train=5, test=3, seed=3)["scenes"] == {"training": 5, "validation": 3}
    with pytest.raises(UserError, match="holds other scenes; give another directory, or remove it"):
        write_scenes(folder, train=5, test=3, seed=4)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_an_interrupted_call_is_finished_by_the_same(folder, tmp_path, monkeypatch):
    def stop(scene, image):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scene_files, "_names", stop)
        with pytest.raises(KeyboardInterrupt):
            write_scenes(tmp_path / "out", train=5, test=3, seed=3)
    with pytest.raises(UserError, match="holds an unfinished preparation of other scenes"):
        write_scenes(tmp_path / "out", train=5, test=2, seed=3)
    write_scenes(tmp_path / "out", train=5, test=3, seed=3)
    assert contents(tmp_path / "out") == contents(folder)


def test_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="holds photos; expected an empty or a new directory"):
        write_scenes(tmp_path, train=5, test=3, seed=3)
