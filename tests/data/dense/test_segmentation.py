"""Images with annotations: both go to the same places, told by coordinates written into both."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.data.augment import draw_affine
from qsdt_jax.data.dense.annotations import labelled_counts
from qsdt_jax.data.dense.buckets import Buckets, scaled
from qsdt_jax.data.dense.segmentation import SegmentationPreprocess
from qsdt_jax.data.geometry import Crop, Flip, Pad, Resize, Steps, moved
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.data.pipeline import training_batches
from qsdt_jax.data.sources import FakeAnnotated
from qsdt_jax.errors import UserError
from tests.data.dense.annotated import Annotated, coordinates

IGNORED = 65535
OWN = Buckets(0, 2048, (), (16, 16))
PLAIN = SegmentationPreprocess(size=(32, 32), mean=(0.5,), std=(0.25,), buckets=OWN)
RANDOM = dataclasses.replace(PLAIN, augmentation="resize_crop_flip", largest_share=1.0)


def assert_one_place(example, *, own, slack: float, inner_slack: float | None = None):
    """Wherever there is image, its colours and its annotation tell the same place, within `slack` pixels.

    Places two or more pixels from the border of the own image within `inner_slack`, where it is given.
    """
    height, width = example["size"]
    image, annotation = example["image"].astype(float), example["annotation"].astype(int)
    assert image.shape[:2] == annotation.shape
    valid = np.zeros(annotation.shape, bool)
    valid[:height, :width] = True
    np.testing.assert_array_equal(annotation != IGNORED, valid)
    np.testing.assert_array_equal(image[..., 2], 255.0 * valid)
    assert not image[~valid].any()
    row, column = annotation[valid] // 256, annotation[valid] % 256
    assert row.max() < own[0] and column.max() < own[1]
    for axis, place in enumerate((row, column)):
        error = np.abs(image[valid][:, axis] / 4 - place)
        assert error.max() <= slack
        if inner_slack is not None:
            inside = (place >= 2) & (place < own[axis] - 2)
            assert error[inside].max(initial=0) <= inner_slack
    return row.reshape(height, width), column.reshape(height, width)


# What a geometry does with an annotation


@pytest.mark.parametrize(
    "geometry",
    [
        Crop(2, 3, 10, 20),
        Flip(30),
        Pad(1, 2, 3, 4),
        Resize((20, 30), (13, 50)),
        draw_affine(np.random.default_rng(0), (20, 30)),
        Steps((Pad(left=3), Crop(0, 1, 20, 20), Resize((20, 20), (40, 30)))),
    ],
    ids=lambda geometry: type(geometry).__name__,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_annotation_goes_as_a_mask_and_is_ignored_outside(geometry, dtype):
    annotation = np.random.default_rng(1).integers(0, 200, (20, 30)).astype(dtype)
    found = moved({"annotation": annotation}, geometry)["annotation"]
    inside = geometry.apply_mask(np.ones((20, 30), bool))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[inside], geometry.apply_mask(annotation)[inside])
    assert np.all(found[~inside] == np.iinfo(dtype).max)


def test_images_are_resampled_as_they_are_told():
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)
    for resampling in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        found = Resize((20, 30), (11, 45), resampling).apply_image(image)
        np.testing.assert_array_equal(found, np.asarray(Image.fromarray(image).resize((45, 11), resampling)))
    default = Resize((20, 30), (11, 45)).apply_image(image)
    np.testing.assert_array_equal(default, found)


# Training


@pytest.mark.parametrize("own", [(40, 60), (60, 25), (20, 20), (1, 1), (63, 63)])
def test_image_and_annotation_go_to_the_same_places(own):
    """And all of the recipe happens: sizes, parts and mirror images, at the ratios that it names."""
    low, high = 0.5, 2.0
    lefts, mirrored, steps = set(), set(), []
    for seed in range(40):
        example = RANDOM.train(coordinates(own), np.random.default_rng(seed))
        assert example["image"].shape == (32, 32, 3) and example["image"].dtype == np.uint8
        assert example["size"].dtype == np.int32
        # An enlarged border repeats its pixels, a smaller image is a mean of several.
        row, column = assert_one_place(example, own=own, slack=2.0, inner_slack=0.75)
        if column.shape[1] > 8 and own[1] > 8:
            across = np.diff(column.astype(float), axis=1)
            assert np.all(across >= 0) or np.all(across <= 0)
            mirrored.add(bool(across.sum() < 0))
            steps.append((np.ptp(row) + 1) / row.shape[0])
        lefts.add((row.min(), column.min()))
    if min(own) > 8:
        assert mirrored == {False, True}
        assert 1 / high - 0.05 <= min(steps) < 0.65 and 1.4 < max(steps) <= 1 / low + 0.2
    if max(own) > 32:
        assert len(lefts) > 10


def test_a_ratio_of_one_cuts_and_pads_pixel_by_pixel():
    preprocess = dataclasses.replace(RANDOM, resize_ratio=(1.0, 1.0))
    for seed in range(10):
        example = preprocess.train(coordinates((20, 50)), np.random.default_rng(seed))
        assert example["size"].tolist() == [20, 32]
        assert_one_place(example, own=(20, 50), slack=0.0)


def test_the_same_generator_gives_the_same_example():
    one, other, another = (RANDOM.train(coordinates((40, 60)), np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(one["annotation"], another["annotation"])


def test_the_scale_of_training_is_that_of_evaluation_times_a_ratio():
    preprocess = dataclasses.replace(
        RANDOM, buckets=Buckets(24, 48, (), (16, 16)), resize_ratio=(0.5, 0.5), size=(64, 64)
    )
    for own in ((48, 60), (10, 63), (33, 20)):
        example = preprocess.train(coordinates(own), np.random.default_rng(0))
        assert tuple(example["size"]) == scaled(own, 24, 48, 0.5)


def test_without_augmentation_it_is_the_middle():
    example = PLAIN.train(coordinates((40, 20)), np.random.default_rng(0))
    row, column = assert_one_place(example, own=(40, 20), slack=0.0)
    assert (row[0, 0], row[-1, -1]) == (4, 35) and (column[0, 0], column[-1, -1]) == (0, 19)


def two_classes(size, share: float):
    """Class 3 on the left, class 7 on the right; class 3 has this share of the columns."""
    annotation = np.full(size, 7, np.uint8)
    annotation[:, : round(share * size[1])] = 3
    return {"image": np.zeros((*size, 3), np.uint8), "annotation": annotation}


def shares(preprocess, example, seeds=1000) -> np.ndarray:
    """Of the largest class in each part drawn."""
    found = []
    for seed in range(seeds):
        counts = labelled_counts(preprocess.train(example, np.random.default_rng(seed))["annotation"])
        found.append(counts.max() / counts.sum())
    return np.array(found)


def test_parts_of_almost_one_class_are_drawn_again():
    """Ten times: 7 of 45 places are good here, so that (38/45)^10 of the parts are not."""
    example, kept = two_classes((60, 60), 0.5), dataclasses.replace(RANDOM, resize_ratio=(1.0, 1.0))
    some = shares(dataclasses.replace(kept, size=(16, 16), largest_share=0.75), example)
    every = shares(dataclasses.replace(kept, size=(16, 16)), example)
    assert abs(np.mean(every >= 0.75) - 38 / 45) < 0.03
    assert abs(np.mean(some >= 0.75) - (38 / 45) ** 10) < 0.03


def test_a_part_of_one_class_is_kept_where_there_is_no_other():
    preprocess = dataclasses.replace(RANDOM, largest_share=0.75)
    for value in (5, 255):  # One class; no label at all.
        example = {"image": np.zeros((50, 50, 3), np.uint8), "annotation": np.full((50, 50), value, np.uint8)}
        found = preprocess.train(example, np.random.default_rng(0))
        height, width = found["size"]
        assert np.all(found["annotation"][:height, :width] == value)


def test_ignored_pixels_do_not_count_in_a_share():
    annotation = np.array([[3, 3, 7, 255], [255, 255, 255, 255]], np.uint8)
    assert labelled_counts(annotation).tolist() == [0, 0, 0, 2, 0, 0, 0, 1]
    assert labelled_counts(np.full((2, 2), 255, np.uint8)).tolist() == []


def test_colours_are_distorted_and_nothing_else():
    plain, distorted = RANDOM, dataclasses.replace(RANDOM, photometric=True)
    changed = 0
    for seed in range(20):
        one, other = (p.train(coordinates((20, 50)), np.random.default_rng(seed)) for p in (plain, distorted))
        np.testing.assert_array_equal(one["annotation"], other["annotation"])
        np.testing.assert_array_equal(one["size"], other["size"])
        assert not other["image"][other["annotation"] == IGNORED].any()  # Padding stays black.
        changed += not np.array_equal(one["image"], other["image"])
    assert changed > 10


# Evaluation


@pytest.mark.parametrize("own", [(40, 60), (60, 25), (16, 16), (1, 1), (7, 63)])
def test_evaluation_shows_the_whole_image(own):
    """At its own size: pixel by pixel; and the annotation always."""
    example = PLAIN.evaluate(coordinates(own))
    assert_one_place(example, own=own, slack=0.0)
    assert tuple(example["size"]) == tuple(example["annotation_size"]) == own
    assert example["size"].dtype == example["annotation_size"].dtype == np.int32
    expected = coordinates(own)["annotation"]
    np.testing.assert_array_equal(example["annotation"][: own[0], : own[1]], expected)


def test_evaluation_scales_the_image_and_leaves_the_annotation():
    preprocess = dataclasses.replace(PLAIN, buckets=Buckets(16, 64, ((16, 32), (32, 16)), (16, 16)))
    given = coordinates((40, 60))
    example = preprocess.evaluate(given)
    assert example["size"].tolist() == [16, 24] and example["annotation_size"].tolist() == [40, 60]
    picture = Image.fromarray(given["image"]).resize((24, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(example["image"][:16, :24], np.asarray(picture))
    assert example["image"].shape == (16, 32, 3) and not example["image"][:, 24:].any()
    assert example["annotation"].shape == (64, 128)
    np.testing.assert_array_equal(example["annotation"][:40, :60], given["annotation"])
    assert np.all(example["annotation"][40:] == IGNORED) and np.all(example["annotation"][:, 60:] == IGNORED)
    view = preprocess.view(given["image"])
    assert view.keys() == {"image", "size"}
    assert all(np.array_equal(view[name], example[name]) for name in view)


def test_what_it_does_not_know_it_leaves_alone():
    target = object()
    for found in (
        PLAIN.evaluate({**coordinates((9, 9)), "target": target}),
        RANDOM.train({**coordinates((9, 9)), "target": target}, np.random.default_rng(0)),
    ):
        assert found["target"] is target


GOOD = coordinates((4, 5))


@pytest.mark.parametrize(
    ("example", "told"),
    [
        ({"image": GOOD["image"]}, "an example has image; expected an image and its annotation"),
        ({"image": GOOD["image"], "label": 3}, "an example has image, label; expected an image and its anno"),
        (
            {**GOOD, "annotation": GOOD["annotation"][:3]},
            r"annotation is uint16 \(3, 5\); expected .* \(4, 5\)",
        ),
        ({**GOOD, "annotation": GOOD["image"]}, r"annotation is uint8 \(4, 5, 3\); expected"),
        (
            {**GOOD, "annotation": GOOD["annotation"].astype(int)},
            r"annotation is int64 \(4, 5\); expected uint8",
        ),
        ({**GOOD, "image": GOOD["image"] / 255}, r"an image is float64 \(4, 5, 3\); expected uint8"),
        ({**GOOD, "image": GOOD["image"][:0]}, r"an image is uint8 \(0, 5, 3\); expected uint8"),
    ],
)
def test_mistakes_are_told_in_one_line(example, told):
    for see in (PLAIN.evaluate, lambda example: RANDOM.train(example, np.random.default_rng(0))):
        with pytest.raises(UserError, match=told):
            see(example)


# Batches


def test_a_training_batch():
    stream = training_batches(Annotated(), RANDOM.train, seed=0, batch_size=4)
    for batch in itertools.islice(stream, 3):
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
            "image": ((4, 32, 32, 3), np.uint8),
            "size": ((4, 2), np.int32),
            "annotation": ((4, 32, 32), np.uint8),
        }
        for image, (height, width), annotation in zip(
            *(batch[n] for n in ("image", "size", "annotation")), strict=True
        ):
            assert np.all(image[:height, :width] == annotation[:height, :width, None] + 1)
            assert np.count_nonzero(image) == 3 * height * width
            assert np.count_nonzero(annotation != 255) == height * width


def test_what_is_padding_becomes_0_after_normalisation():
    batch = next(training_batches(Annotated(), RANDOM.train, seed=1, batch_size=8))
    inputs = to_inputs(batch, RANDOM.normalization)
    np.testing.assert_array_equal(inputs["size"], batch["size"])
    expected = np.array(to_inputs({"image": batch["image"]}, RANDOM.normalization)["image"])
    for image, (height, width) in zip(expected, batch["size"], strict=True):
        image[height:], image[:, width:] = 0, 0
    np.testing.assert_array_equal(inputs["image"], expected)
    assert np.any(expected == 0) and np.any(expected != 0)


# Random examples


@pytest.mark.parametrize(("classes", "dtype"), [(3, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_fake_images_have_the_sizes_and_classes_that_they_say(classes, dtype):
    source = FakeAnnotated(30, (32, 48, 1), classes)
    assert len(source) == 30 and len(source.class_names) == classes
    seen = set()
    for index in range(30):
        example = source[index]
        assert all(np.array_equal(example[name], source[index][name]) for name in example)
        assert example["image"].shape == (*source.size_of(index), 1) and example["image"].dtype == np.uint8
        annotation = example["annotation"]
        assert annotation.shape == source.size_of(index) and annotation.dtype == dtype
        labelled = annotation[annotation != np.iinfo(dtype).max]
        assert labelled.size == 0 or labelled.max() < classes
        seen |= set(annotation.ravel().tolist())
    sizes = np.array([source.size_of(index) for index in range(30)])
    assert len({tuple(size) for size in sizes.tolist()}) > 20
    assert sizes.min(0).tolist() >= [24, 36] and sizes.max(0).tolist() <= [40, 60]
    assert len(seen) == classes + 1 if classes == 3 else len(seen) > 100


def test_without_flips_nothing_is_mirrored():
    """Columns go up in every draw; with flips in some."""
    image = np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (30, 1, 3))
    example = {"image": image, "annotation": image[..., 0]}

    def mirrored(augmentation: str) -> list[bool]:
        preprocess = dataclasses.replace(RANDOM, augmentation=augmentation)
        found = []
        for seed in range(20):
            moved = preprocess.train(example, np.random.default_rng(seed))
            _, width = moved["size"]
            row = moved["image"][0, :width, 0].astype(int)
            found.append(bool(row[0] > row[-1]))
        return found

    assert not any(mirrored("resize_crop")) and any(mirrored("resize_crop_flip"))
