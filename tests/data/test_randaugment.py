"""RandAugment: the pixels of timm, and the distribution of what is drawn."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import stats

from qsdt_jax.data.images import to_picture
from qsdt_jax.data.randaugment import OPERATIONS, SIGNED, UNSIGNED, rand_augment, sample_operations
from tests.golden.augmented import FILL, assert_golden, golden, names

BY_NAME = {operation.__name__: operation for operation in OPERATIONS}
DRAWS = 10_000
SMALLEST_P = 1e-3  # Seeds are fixed, so a test either always passes or never.


def applied(name: str, image: np.ndarray, level: float, fill=FILL) -> np.ndarray:
    return BY_NAME[name]({"image": image}, level, fill)["image"]


GOLDEN = [name for operation in BY_NAME for name in names(f"{operation}/")]


@pytest.mark.parametrize("name", GOLDEN)
def test_pixels_are_those_of_timm(name):
    operation, magnitude = name.split("/")
    assert_golden(name, applied(operation, golden()["image"], float(magnitude) / 10))


def test_golden_results_cover_every_operation_magnitude_and_sign():
    expected = set()
    for operation in OPERATIONS:
        signs = ("", "-") if operation in SIGNED else ("",)
        for magnitude in ("0", "4.5", "9", "10"):
            expected |= {f"{operation.__name__}/{sign}{magnitude}" for sign in signs}
    expected -= {f"{operation.__name__}/-0" for operation in SIGNED} | {"posterize/10"}
    assert set(GOLDEN) == expected and len(OPERATIONS) == len(BY_NAME) == 15


def test_full_posterize_is_black():
    """timm asks Pillow for 0 bits, which current versions refuse."""
    image = golden()["image"]
    assert not applied("posterize", image, 1.0).any()
    for magnitude, bits in ((9.99, 1), (7.5, 1), (7.4, 2), (5, 2), (2.5, 3), (0, 4)):
        expected = np.asarray(ImageOps.posterize(to_picture(image), bits))
        np.testing.assert_array_equal(applied("posterize", image, magnitude / 10), expected)


@pytest.mark.parametrize("name", BY_NAME)
def test_grey_images_are_treated_like_a_channel(name):
    """Of a grey RGB image all channels, and the one of a grey image, are changed the same way."""
    grey = golden()["image"][..., :1]
    for level in (0.45, 0.9, -0.9) if BY_NAME[name] in SIGNED else (0.45, 0.9):
        one = applied(name, grey, level, 116)
        three = applied(name, grey.repeat(3, -1), level, (116, 116, 116))
        assert one.shape == grey.shape
        np.testing.assert_array_equal(np.broadcast_to(one, three.shape), three)


# What is drawn


@pytest.fixture(scope="module")
def draws() -> list:
    generator = np.random.default_rng(0)
    return [sample_operations(generator) for _ in range(DRAWS)]


def test_every_operation_is_drawn_alike(draws):
    flat = [operation for drawn in draws for operation, _ in drawn]
    counts = [flat.count(operation) for operation in OPERATIONS]
    assert sum(counts) == len(flat)
    assert stats.chisquare(counts).pvalue > SMALLEST_P


def test_the_two_operations_are_independent_and_may_be_the_same(draws):
    pairs = np.zeros((15, 15), int)
    for drawn in draws:
        if len(drawn) == 2:
            pairs[tuple(OPERATIONS.index(operation) for operation, _ in drawn)] += 1
    assert stats.chisquare(pairs.reshape(-1)).pvalue > SMALLEST_P
    assert stats.binomtest(int(pairs.trace()), int(pairs.sum()), 1 / 15).pvalue > SMALLEST_P


@pytest.mark.parametrize(("num_operations", "probability"), [(2, 0.5), (3, 0.2)])
def test_number_applied_is_binomial(num_operations, probability):
    generator = np.random.default_rng(1)
    counts = np.zeros(num_operations + 1)
    for _ in range(DRAWS):
        drawn = sample_operations(generator, num_operations=num_operations, probability=probability)
        counts[len(drawn)] += 1
    expected = stats.binom(num_operations, probability).pmf(range(num_operations + 1)) * DRAWS
    assert stats.chisquare(counts, expected).pvalue > SMALLEST_P


def test_magnitudes_are_normal_and_clipped(draws):
    magnitudes = np.array([10 * abs(level) for drawn in draws for _, level in drawn])
    assert magnitudes.max() == 10
    whole = stats.norm(9, 0.5)
    clipped = int(np.sum(magnitudes == 10))
    assert stats.binomtest(clipped, len(magnitudes), whole.sf(10)).pvalue > SMALLEST_P
    below = magnitudes[magnitudes < 10]
    assert stats.kstest(below, lambda x: whole.cdf(x) / whole.cdf(10)).pvalue > SMALLEST_P
    generator = np.random.default_rng(2)
    low = [10 * abs(level) for _ in range(DRAWS) for _, level in sample_operations(generator, 1, 2)]
    assert min(low) == 0
    assert stats.binomtest(low.count(0), len(low), stats.norm(1, 2).cdf(0)).pvalue > SMALLEST_P


def test_magnitude_without_deviation_is_exact():
    generator = np.random.default_rng(0)
    levels = {abs(level) for _ in range(1000) for _, level in sample_operations(generator, 7, 0)}
    assert levels == {0.7}


def test_signs_are_fair_where_an_operation_has_one(draws):
    negative = {operation: [] for operation in OPERATIONS}
    for drawn in draws:
        for operation, level in drawn:
            negative[operation].append(level < 0)
    assert not any(any(negative[operation]) for operation in UNSIGNED)
    counts = [f(negative[operation]) for operation in SIGNED for f in (sum, lambda n: len(n) - sum(n))]
    expected = [len(negative[operation]) / 2 for operation in SIGNED for _ in range(2)]
    statistic = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
    assert stats.chi2(len(SIGNED)).sf(statistic) > SMALLEST_P


# All of it


def test_operations_are_applied_in_the_order_drawn():
    image = golden()["image"]
    for seed in range(40):
        expected = {"image": image}
        for operation, level in sample_operations(np.random.default_rng(seed), 9, 0.5):
            expected = operation(expected, level, FILL)
        found = rand_augment({"image": image}, np.random.default_rng(seed), fill=FILL)["image"]
        np.testing.assert_array_equal(found, expected["image"])
        assert found.dtype == np.uint8


@pytest.mark.parametrize("level", [0.9, -0.9])
def test_what_comes_in_has_the_fill_colour(level):
    image = np.full((40, 60, 3), 255, np.uint8)
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        colours = np.unique(applied(name, image, level, (1, 2, 3)).reshape(-1, 3), axis=0).tolist()
        assert [1, 2, 3] in colours and [255, 255, 255] in colours


def test_grey_and_wide_images():
    generator = np.random.default_rng(0)
    for shape in ((20, 30, 1), (1, 50, 3), (50, 1, 3), (1, 1, 1)):
        image = generator.integers(0, 256, shape, np.uint8)
        for _ in range(100):
            found = rand_augment({"image": image}, generator, fill=FILL[: shape[-1]])["image"]
            assert found.shape == shape and found.dtype == np.uint8


@pytest.mark.parametrize("shape", [(20, 30, 1), (33, 17, 3), (1, 9, 3)])
def test_rotation_is_pillows(shape):
    generator = np.random.default_rng(0)
    for _ in range(100):
        image, level = generator.integers(0, 256, shape, np.uint8), generator.uniform(-1, 1)
        fill = 116 if shape[-1] == 1 else FILL
        expected = to_picture(image).rotate(30 * level, Image.Resampling.BICUBIC, fillcolor=fill)
        found = applied("rotate", image, level, fill)
        np.testing.assert_array_equal(found, np.asarray(expected).reshape(shape))


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("level", [0.9, -0.9])
def test_boxes_and_masks_go_where_the_image_goes(name, level):
    """The image tells where: what was in the box is red."""
    mask = np.zeros((40, 60), np.uint8)
    mask[12:30, 20:44] = 1
    image = np.stack([200 * mask, 20 * mask, 0 * mask], axis=-1)
    boxes, target = np.array([[20, 12, 44, 30]], np.float32), object()
    example = {"image": image, "masks": mask, "boxes": boxes, "target": target}
    found = BY_NAME[name](example, abs(level) if BY_NAME[name] in UNSIGNED else level, (0, 0, 0))
    assert found["target"] is target and found["boxes"].dtype == np.float32
    if name not in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        assert found["masks"] is mask and found["boxes"] is boxes
        return
    red = found["image"][..., 0] > 100
    assert not np.array_equal(red, mask) and np.mean(red != found["masks"]) < 0.02
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(found["boxes"][0] - around).max() <= 2
