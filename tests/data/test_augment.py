"""Random geometry and erasing: the distribution of what is drawn, and what is done with it."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qsdt_jax.data.augment import (
    ERASED_BOX,
    NOISE_KEY,
    draw_affine,
    draw_erasing,
    draw_flip,
    draw_resized_crop,
    random_box,
)
from qsdt_jax.data.images import resize
from qsdt_jax.data.inputs import erase
from tests.golden.augmented import assert_golden, golden, names

DRAWS = 5000
SMALLEST_P = 1e-3  # Seeds are fixed, so a test either always passes or never.
CROP = {"area": (0.08, 1.0), "aspect": (3 / 4, 4 / 3)}
ERASED = {"area": (0.02, 1 / 3), "aspect": (0.3, 1 / 0.3), "margin": 1}


def noise(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def boxes(within, seed: int = 0, **bounds) -> np.ndarray:
    """(DRAWS, 4) boxes, all of which fit at once or after some tries."""
    generator = np.random.default_rng(seed)
    drawn = [random_box(generator, within, **bounds) for _ in range(DRAWS)]
    return np.array([box for box in drawn if box is not None])


# Boxes


def test_area_and_aspect_of_boxes_that_always_fit():
    """Uniform and log-uniform, where the image is so large that rounding does not show."""
    top, left, height, width = boxes((10_000, 10_000), area=(0.1, 0.5), aspect=(0.6, 1.9)).T
    assert len(top) == DRAWS
    assert stats.kstest(height * width / 1e8, stats.uniform(0.1, 0.4).cdf).pvalue > SMALLEST_P
    aspect = stats.uniform(np.log(0.6), np.log(1.9 / 0.6))
    assert stats.kstest(np.log(width / height), aspect.cdf).pvalue > SMALLEST_P
    for first, length in ((top, height), (left, width)):
        place = first / (10_000 - length)
        assert stats.kstest(place, stats.uniform.cdf).pvalue > SMALLEST_P
        assert place.min() >= 0 and place.max() <= 1


@pytest.mark.parametrize("bounds", [CROP, ERASED], ids=["crop", "erased"])
def test_boxes_that_do_not_fit_are_drawn_again(bounds):
    """Against rejection sampling of many boxes at once."""
    height, width = within = (3000, 4000)
    generator = np.random.default_rng(1)
    area = generator.uniform(*bounds["area"], 10 * DRAWS) * height * width
    aspect = np.exp(generator.uniform(*np.log(bounds["aspect"]), 10 * DRAWS))
    h, w = np.round(np.sqrt(area / aspect)), np.round(np.sqrt(area * aspect))
    margin = bounds.get("margin", 0)
    fits = (h <= height - margin) & (w <= width - margin)
    assert 0.01 < np.mean(~fits) < 0.5
    *_, found_h, found_w = boxes(within, **bounds).T
    assert stats.ks_2samp(found_h * found_w, (h * w)[fits]).pvalue > SMALLEST_P
    assert stats.ks_2samp(found_w / found_h, (w / h)[fits]).pvalue > SMALLEST_P


def test_boxes_reach_every_place_and_never_leave_the_image():
    for margin in (0, 1):
        top, left, height, width = boxes((5, 4), area=(0.1, 1), aspect=(0.5, 2), margin=margin).T
        assert min(top.min(), left.min()) == 0 and min(height.min(), width.min()) == 1
        assert (top + height).max() == 5 and (left + width).max() == 4
        assert height.max() == 5 - margin and width.max() == 4 - margin


def test_ten_tries_for_a_box():
    """A try fits with probability one half here."""
    generator = np.random.default_rng(0)
    area = 0.5, 1.5  # Squares: those of an area above 1 do not fit.
    missing = sum(random_box(generator, (1000, 1000), area=area, aspect=(1, 1)) is None for _ in range(DRAWS))
    # Rounding to whole pixels lets a side of 1000.4 fit.
    assert stats.binomtest(missing, DRAWS, (1.5 - 1.0005**2) ** 10).pvalue > SMALLEST_P


# Random resized crops


@pytest.mark.parametrize("name", names("resized_crop/"))
def test_pixels_of_a_resized_box_are_those_of_torchvision(name):
    top, left, height, width = golden()["boxes"][int(name.split("/")[1])]
    box = golden()["grey"][top : top + height, left : left + width, None]
    assert_golden(name, resize(box, (224, 224)))


def test_crop_is_the_box_drawn():
    image = noise((40, 50, 3))
    for seed in range(20):
        top, left, h, w = random_box(np.random.default_rng(seed), (40, 50), **CROP)
        expected = resize(image[top : top + h, left : left + w], (16, 24))
        found = draw_resized_crop(np.random.default_rng(seed), (40, 50), (16, 24)).apply_image(image)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((30, 1000), (0, 480, 30, 40)),
        ((1000, 30), (480, 0, 40, 30)),
        ((31, 1000), (0, 479, 31, 41)),  # 31 * 4 / 3 = 41.3
        ((1, 9), (0, 4, 1, 1)),
        ((60, 50), (0, 0, 60, 50)),  # Of an allowed aspect ratio as a whole.
    ],
)
def test_largest_centred_box_where_none_fits(shape, box):
    image = noise((*shape, 1))
    top, left, h, w = box
    expected = resize(image[top : top + h, left : left + w], (16, 16))
    crop = draw_resized_crop(np.random.default_rng(0), shape, (16, 16), area=(2, 3))
    found = crop.apply_image(image)
    np.testing.assert_array_equal(found, expected)


def test_flip_is_a_fair_coin():
    image, generator = noise((3, 4, 3)), np.random.default_rng(0)
    flipped = 0
    for _ in range(DRAWS):
        found = draw_flip(generator, 4).apply_image(image)
        if np.array_equal(found, image[:, ::-1]):
            flipped += 1
        else:
            np.testing.assert_array_equal(found, image)
    assert stats.binomtest(flipped, DRAWS, 0.5).pvalue > SMALLEST_P


# Random erasing


def erased_by(images: np.ndarray, generators, **options) -> np.ndarray:
    """Each image (H, W, C) of a batch after what its generator draws for it."""
    drawn = [draw_erasing(generator, images.shape[1:3], **options) for generator in generators]
    boxes, keys = (np.stack([draw[name] for draw in drawn]) for name in (ERASED_BOX, NOISE_KEY))
    return np.asarray(erase(jnp.asarray(images), jnp.asarray(boxes), jnp.asarray(keys)))


def test_erased_boxes_are_those_drawn():
    """How often, and where; what is outside stays as it was."""
    generator, erased, rows_at_once = np.random.default_rng(0), [], 500
    images = np.full((rows_at_once, 40, 60, 3), 7, np.float32)
    for _ in range(DRAWS // rows_at_once):
        found = erased_by(images, [generator] * rows_at_once)
        assert found.dtype == np.float32
        for image in found:
            changed = np.all(image != 7, axis=-1)
            assert np.array_equal(changed, np.any(image != 7, axis=-1))
            if not changed.any():
                continue
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            top, left, h, w = rows[0], columns[0], len(rows), len(columns)
            assert changed.sum() == h * w
            erased.append((top, left, h, w))
    assert stats.binomtest(len(erased), DRAWS, 0.25).pvalue > SMALLEST_P
    expected = boxes((40, 60), seed=1, **ERASED)
    for found, other in zip(np.array(erased).T, expected.T, strict=True):
        assert stats.ks_2samp(found, other).pvalue > SMALLEST_P


def test_noise_is_standard_normal_for_each_pixel_and_channel():
    """And in no two images the same."""
    images = np.full((8, 200, 200, 3), np.nan, np.float32)
    every = erased_by(images, [np.random.default_rng(seed) for seed in range(8)], probability=1)
    for found in every:
        values = found[~np.isnan(found)].reshape(-1, 3)
        assert len(values) > 500
        assert stats.kstest(values.reshape(-1), stats.norm.cdf).pvalue > SMALLEST_P
        assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 4 / np.sqrt(len(values))
    values = every[~np.isnan(every)]
    assert len(np.unique(values)) > 0.95 * len(values)  # A float32 holds some twice.


def test_nothing_is_erased_where_no_box_fits():
    for shape in ((1, 1, 3), (1, 100, 3)):
        images = np.ones((1, *shape), np.float32)
        found = erased_by(images, [np.random.default_rng(0)], probability=1)
        np.testing.assert_array_equal(found, images)


def test_erasing_follows_from_the_row_alone():
    """Not from its place in the batch nor from other rows."""
    images = np.random.default_rng(0).normal(size=(6, 24, 20, 3)).astype(np.float32)
    generators = [lambda i=i: np.random.default_rng(i) for i in range(6)]
    whole = erased_by(images, [make() for make in generators], probability=0.8)
    for order in ([5, 3, 1], [2], [4, 0]):
        part = erased_by(images[order], [generators[i]() for i in order], probability=0.8)
        np.testing.assert_array_equal(part, whole[order])


# The generator decides all


def test_same_generator_same_image():
    image = noise((24, 24, 3))
    changes = [
        lambda image, generator: draw_affine(generator, (24, 24)).apply_image(image),
        lambda image, generator: draw_flip(generator, 24).apply_image(image),
        lambda image, generator: draw_resized_crop(generator, (24, 24), (16, 16)).apply_image(image),
        lambda image, generator: erased_by(image[None].astype(np.float32), [generator], probability=0.9),
    ]
    for change in changes:
        results = []
        for seed in (*range(6), *range(6)):
            np.random.seed(len(results))  # A generator of NumPy's own must play no role.
            results.append(change(image, np.random.default_rng(seed)).tobytes())
        assert results[:6] == results[6:] and len(set(results)) > 1
