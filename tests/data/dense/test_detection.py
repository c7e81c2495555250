"""Images with objects: image, boxes and masks go to the same places, in every augmentation."""

import dataclasses
import logging
import pickle

import numpy as np
import pytest

from qsdt_jax.data.dense.buckets import Buckets
from qsdt_jax.data.dense.detection import DetectionPreprocess
from qsdt_jax.data.dense.fake_objects import FakeObjects
from qsdt_jax.data.pipeline import evaluation_batches, training_batches
from qsdt_jax.data.plan import groups_of
from qsdt_jax.errors import UserError

SQUARES = Buckets(0, 64, ((64, 64),), (16, 16), annotated=False)
PLAIN = DetectionPreprocess(size=(64, 64), mean=(0.5,), std=(0.2,), buckets=SQUARES, objects=4)
RANDOM = dataclasses.replace(
    PLAIN,
    augmentation="resize_or_crop_flip",
    short_sides=(40, 52, 64),
    crop_short_sides=(30, 40),
    crop_sides=(16, 28),
)


def coordinates(size, objects=3, seed=0):
    """An example whose image tells the place of each pixel, with masks that are random blobs in their boxes.

    Red is 4 x the row, green 4 x the column, blue is full. Sides are at most 63 pixels.
    """
    height, width = size
    row, column = np.indices(size)
    image = np.stack([4 * row, 4 * column, np.full(size, 255)], axis=-1).astype(np.uint8)
    generator = np.random.default_rng(seed)
    boxes, masks = [], []
    for _ in range(objects):
        x, y = generator.uniform(0, 0.6 * width), generator.uniform(0, 0.6 * height)
        box = (x, y, x + generator.uniform(0.2, 0.4) * width, y + generator.uniform(0.2, 0.4) * height)
        inside = (
            (column + 0.5 > box[0]) & (column + 0.5 < box[2]) & (row + 0.5 > box[1]) & (row + 0.5 < box[3])
        )
        slope, shift = generator.normal(), generator.normal(0, 3)
        boxes.append(box)
        masks.append(inside & (row - box[1] > slope * (column - box[0]) + shift))
    return {
        "image": image,
        "index": 7,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "category": np.arange(10, 10 + objects, dtype=np.int32),
        "masks": np.array(masks, bool).reshape(-1, *size),
    }


def seen_map(example):
    """(a, b) of columns and of rows: what stood at x is shown at a x + b, by the pixels alone."""
    height, width = example["size"]
    image = example["image"][:height, :width].astype(float)
    assert np.all(image[..., 2] == 255) and not example["image"][height:].any()
    assert not example["image"][:, width:].any()
    found = []
    for values in (image[height // 2, :, 1], image[:, width // 2, 0]):
        places = np.arange(len(values)) + 0.5
        inner = slice(3, -3)  # At its ends an image that is enlarged repeats its pixels.
        slope, start = np.polyfit(places[inner], values[inner] / 4 + 0.5, 1)
        found.append((1 / slope, -start / slope))
    return found


def assert_one_place(given, example):
    """Boxes are where the pixels say, and cells of masks are what the original masks have there."""
    (ax, bx), (ay, by) = seen_map(example)
    height, width = example["size"]
    boxes = given["boxes"].astype(float) * (ax, ay, ax, ay) + (bx, by, bx, by)
    if ax < 0:
        boxes = boxes[:, [2, 1, 0, 3]]
    boxes = np.clip(boxes, 0, (width, height, width, height))
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = np.flatnonzero((sides >= 1).all(1))
    if np.abs(sides.min(1, initial=9) - 1).min(initial=9) < 0.4:
        return 0  # Too close for pixels to tell whether it stays.
    number = len(kept)
    assert example["category"].tolist() == [*given["category"][kept], *[-1] * (4 - number)]
    np.testing.assert_allclose(example["boxes"][:number], boxes[kept], atol=0.4)
    assert not example["boxes"][number:].any() and not example["masks"][number:].any()
    for place, index in enumerate(kept):
        x0, y0, x1, y1 = example["boxes"][place].astype(float)
        steps = (np.arange(56 * 4) + 0.5) / (56 * 4)
        columns = np.clip(np.floor((x0 + (x1 - x0) * steps - bx) / ax), 0, given["masks"].shape[2] - 1)
        rows = np.clip(np.floor((y0 + (y1 - y0) * steps - by) / ay), 0, given["masks"].shape[1] - 1)
        shown = given["masks"][index][rows.astype(int)[:, None], columns.astype(int)]
        share = shown.reshape(56, 4, 56, 4).mean((1, 3))
        # Pixels tell the place to a twentieth of one of the original's, which is much of a sliver.
        doubt = 0.1 / min((x1 - x0) / abs(ax), (y1 - y0) / ay)
        assert np.abs(share - example["masks"][place] / 255).mean() < 0.02 + doubt
    return number


@pytest.mark.parametrize(
    "augmentation", ["none", "resize", "resize_flip", "resize_or_crop", "resize_or_crop_flip"]
)
def test_image_boxes_and_masks_go_to_the_same_places(augmentation):
    preprocess = dataclasses.replace(RANDOM, augmentation=augmentation)
    mirrored, scales, partial, objects = set(), set(), 0, 0
    for seed in range(60):
        own = tuple(np.random.default_rng(seed).integers(24, 63, 2).tolist())
        given = coordinates(own, seed=seed)
        example = preprocess.train(given, np.random.default_rng(seed))
        assert {
            name: (np.shape(x), np.asarray(x).dtype) for name, x in example.items() if name != "index"
        } == {
            "image": ((64, 64, 3), np.uint8),
            "size": ((2,), np.int32),
            "boxes": ((4, 4), np.float32),
            "category": ((4,), np.int32),
            "masks": ((4, 56, 56), np.uint8),
        }
        assert example["index"] == 7
        objects += assert_one_place(given, example)
        (ax, _), (ay, _) = seen_map(example)
        assert abs(abs(ax) / ay - 1) < 0.06  # Sides keep their ratio, but for whole pixels.
        mirrored.add(ax < 0)
        scales.add(round(ay, 1))
        partial += example["size"][0] < 0.9 * own[0] * ay or example["size"][1] < 0.9 * own[1] * abs(ax)
    assert objects > 60
    assert mirrored == ({False, True} if augmentation.endswith("flip") else {False})
    assert (len(scales) > 3) == (augmentation != "none")
    assert (15 < partial < 45) if "crop" in augmentation else partial == 0


def test_short_sides_are_those_that_are_given():
    """As far as the long side and the array allow."""
    preprocess = dataclasses.replace(
        RANDOM, augmentation="resize", size=(64, 96), buckets=dataclasses.replace(SQUARES, long_side=80)
    )
    for own, expected in (
        ((30, 30), {(40, 40), (52, 52), (64, 64)}),
        ((30, 40), {(40, 53), (52, 69), (60, 80)}),  # The long side is at most 80.
        ((60, 20), {(64, 21)}),  # The array is 64 high.
    ):
        example = coordinates(own)
        found = {
            tuple(preprocess.train(example, np.random.default_rng(seed))["size"].tolist())
            for seed in range(30)
        }
        assert found == expected


def test_parts_are_as_large_as_they_are_said_to_be():
    """16..28 pixels of an image whose short side is 30 or 40, or all of a side where that is shorter."""
    sides = set()
    for seed in range(200):
        example = RANDOM.train(coordinates((20, 60)), np.random.default_rng(seed))
        (ax, _), _ = seen_map(example)
        width = example["size"][1] / abs(ax)
        if width < 55:
            sides.add(width)
    assert min(sides) == pytest.approx(60 * 16 / 120, abs=1.0)  # Of a frame of 40 x 120 or 30 x 90.
    assert max(sides) == pytest.approx(60 * 28 / 90, abs=1.0)


def test_portrait_images_take_the_transposed_array():
    preprocess = dataclasses.replace(RANDOM, size=(32, 64), portrait=True)
    for own, shape in (((20, 40), (32, 64)), ((30, 30), (32, 64)), ((31, 30), (64, 32))):
        given = coordinates(own)
        for seed in range(20):
            example = preprocess.train(given, np.random.default_rng(seed))
            assert example["image"].shape == (*shape, 3)
            assert_one_place(given, example)
    flat = dataclasses.replace(preprocess, portrait=False)
    assert flat.train(coordinates((40, 20)), np.random.default_rng(0))["image"].shape == (32, 64, 3)


def test_the_same_generator_gives_the_same_example():
    one, other, another = (RANDOM.train(coordinates((40, 60)), np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(one["image"], another["image"])


def test_an_image_without_objects():
    example = RANDOM.train(coordinates((40, 60), 0), np.random.default_rng(0))
    assert np.all(example["category"] == -1) and not example["boxes"].any() and not example["masks"].any()


def test_of_too_many_objects_the_largest_are_kept_and_told(caplog):
    given = coordinates((60, 60), 0)
    sides = np.random.default_rng(0).permutation(30) + 1.5
    given["boxes"] = np.stack([0 * sides, 0 * sides, sides, sides], 1).astype(np.float32)
    given["category"] = np.arange(30, dtype=np.int32)
    given["masks"] = np.ones((30, 60, 60), bool)
    preprocess = dataclasses.replace(PLAIN)
    with caplog.at_level(logging.WARNING, logger="absl"):
        for index in [*range(12), *range(12)]:
            example = preprocess.train({**given, "index": index}, np.random.default_rng(0))
    assert example["category"].tolist() == sorted(np.argsort(-sides)[:4].tolist())
    assert [record.getMessage() for record in caplog.records] == [
        f"image {index} has 30 objects, of which the 4 largest are learnt; {number} such image{s} so far"
        for index, number, s in ((0, 1, ""), (9, 10, "s"))
    ]
    assert pickle.loads(pickle.dumps(preprocess)) == preprocess == PLAIN and hash(preprocess) == hash(PLAIN)


def test_evaluation_shows_the_whole_image_and_no_objects():
    preprocess = dataclasses.replace(
        RANDOM, buckets=Buckets(16, 32, ((16, 32), (32, 16)), (16, 16), annotated=False)
    )
    for own, size, shape in (((20, 40), (16, 32), (16, 32)), ((60, 40), (24, 16), (32, 16))):
        given = coordinates(own)
        example = preprocess.evaluate(given)
        assert example.keys() == {"image", "size", "own_size", "index"}
        assert tuple(example["size"]) == size and tuple(example["own_size"]) == own and example["index"] == 7
        assert example["image"].shape == (*shape, 3)
        assert example["size"].dtype == example["own_size"].dtype == np.int32
        view = preprocess.view(given["image"])
        assert all(np.array_equal(view[name], example[name]) for name in ("image", "size", "own_size"))
    assert preprocess.buckets.of((20, 40)) == preprocess.buckets.of(
        (200, 400)
    )  # One group, whatever its size.


GOOD = coordinates((9, 8))


@pytest.mark.parametrize(
    ("example", "told"),
    [
        ({"image": GOOD["image"], "label": 1}, "an example has image, label; expected image, index, boxes"),
        ({**GOOD, "image": GOOD["image"] / 255}, r"an image is float64 \(9, 8, 3\); expected uint8"),
        ({**GOOD, "boxes": GOOD["boxes"][:, :3]}, r"boxes of an example are float32 \(3, 3\); expected"),
        ({**GOOD, "category": GOOD["category"][:2]}, r"category of an example are int32 \(2,\); expected"),
        ({**GOOD, "masks": GOOD["masks"][:, 1:]}, r"masks of an example are bool \(3, 8, 8\); expected"),
        ({**GOOD, "masks": GOOD["masks"] * 1}, r"masks of an example are int64"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(example, told):
    for see in (PLAIN.evaluate, lambda example: RANDOM.train(example, np.random.default_rng(0))):
        with pytest.raises(UserError, match=told):
            see(example)


# Random examples and batches


def test_fake_images_are_scored_against_their_own_objects():
    source = FakeObjects(20, (32, 48, 3), 4)
    truth = source.truth
    assert [entry["id"] for entry in truth["images"]] == list(range(1, 21)) and len(source.class_names) == 4
    numbers = []
    for index in range(20):
        example = source[index]
        assert all(np.array_equal(example[name], source[index][name]) for name in example)
        assert example["image"].shape == (*source.size_of(index), 3)
        entries = [entry for entry in truth["annotations"] if entry["image_id"] == index + 1]
        assert [entry["category_id"] - 1 for entry in entries] == example["category"].tolist()
        assert [entry["area"] for entry in entries] == example["masks"].sum((1, 2)).tolist()
        numbers.append(len(entries))
        RANDOM.train(example, np.random.default_rng(index))
    assert min(numbers) == 0 and max(numbers) == 5


def test_batches():
    source = FakeObjects(9, (48, 48, 3), 4)
    batch = next(training_batches(source, RANDOM.train, seed=0, batch_size=4))
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        "image": ((4, 64, 64, 3), np.uint8),
        "size": ((4, 2), np.int32),
        "index": ((4,), np.int32),
        "boxes": ((4, 4, 4), np.float32),
        "category": ((4, 4), np.int32),
        "masks": ((4, 4, 56, 56), np.uint8),
    }
    groups = groups_of(source, PLAIN.buckets, 9)
    found = list(evaluation_batches(source, PLAIN.evaluate, batch_size=4, groups=groups))
    assert {name: (x.shape, x.dtype) for name, x in found[0].items()} == {
        "image": ((4, 64, 64, 3), np.uint8),
        "size": ((4, 2), np.int32),
        "own_size": ((4, 2), np.int32),
        "index": ((4,), np.int32),
        "mask": ((4,), np.int32),
    }
    indices = np.concatenate([batch["index"][batch["mask"] == 1] for batch in found])
    assert sorted(indices.tolist()) == list(range(9))
