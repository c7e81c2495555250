"""Resizing and cropping, against torchvision's results and a NumPy reference of the bicubic kernel."""

import math

import numpy as np
import pytest

from qsdt_jax.data.geometry import resize_and_crop
from qsdt_jax.data.images import normalize, resize, to_picture, to_pixels
from tests.golden.augmented import assert_golden, golden


def noise(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def bicubic(length: int, new: int) -> np.ndarray:
    """(new, length) weights of Keys' kernel with a = -1/2, widened by the scale where it shrinks."""
    scale = max(length / new, 1)
    centres = (np.arange(new) + 0.5) * length / new
    x = np.abs(np.arange(length) + 0.5 - centres[:, None]) / scale
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


def covered(image: np.ndarray, size: tuple[int, int], ratio: float = 1.0) -> np.ndarray:
    return resize_and_crop(image.shape[:2], size, ratio).apply_image(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((50, 70), (16, 24)), ((16, 24), (50, 70)), ((40, 20), (20, 40)), ((7, 300), (9, 10)), ((1, 1), (3, 2))],
)
def test_resize_is_bicubic_with_antialiasing(shape, size, channels):
    # Away from black and white, where Pillow cuts off after each of two passes, in an order of its own.
    image = noise((*shape, channels)) // 2 + 64
    rows, columns = bicubic(shape[0], size[0]), bicubic(shape[1], size[1])
    expected = np.round(np.einsum("yh,hwc,xw->yxc", rows, image, columns))
    found = resize(image, size)
    assert found.dtype == np.uint8 and found.shape == (*size, channels)
    assert np.abs(found - expected).max() <= 1


def test_evaluation_is_that_of_torchvision():
    assert_golden("eval", covered(golden()["grey"][..., None], (224, 224), 0.875))
    assert_golden("eval_upscaled", covered(golden()["image"], (224, 224), 0.875))


@pytest.mark.parametrize("size", [16, 32, 224])
@pytest.mark.parametrize("ratio", [1.0, 0.95, 0.9, 0.875])
@pytest.mark.parametrize("shape", [(30, 41), (41, 30), (37, 37), (33, 100), (500, 333), (224, 225), (16, 17)])
def test_square_sizes_are_rounded_as_torchvision_does(size, ratio, shape):
    """Resize(int) and CenterCrop of torchvision, at the frame of timm."""
    image = noise((*shape, 1))
    frame = math.floor(size / ratio)
    long = int(frame * max(shape) / min(shape))
    scaled = (frame, long) if shape[0] <= shape[1] else (long, frame)
    top, left = (round((side - size) / 2.0) for side in scaled)
    expected = resize(image, scaled)[top : top + size, left : left + size]
    np.testing.assert_array_equal(covered(image, (size, size), ratio), expected)


@pytest.mark.parametrize(
    ("shape", "size", "ratio", "scaled", "corner"),
    [
        ((60, 60), (32, 64), 1.0, (64, 64), (16, 0)),
        ((60, 60), (64, 32), 0.5, (128, 128), (32, 48)),
        ((50, 200), (32, 64), 1.0, (32, 128), (0, 32)),
        ((100, 30), (16, 48), 0.75, (213, 64), (98, 8)),  # The frame is 21 x 64.
        ((64, 128), (32, 64), 0.5, (64, 128), (16, 32)),  # Nothing to scale.
    ],
)
def test_other_sizes(shape, size, ratio, scaled, corner):
    image = noise((*shape, 3))
    top, left = corner
    expected = resize(image, scaled)[top : top + size[0], left : left + size[1]]
    np.testing.assert_array_equal(covered(image, size, ratio), expected)


def test_every_shape_gives_the_size_asked_for():
    generator = np.random.default_rng(0)
    for _ in range(300):
        shape, size = generator.integers(1, 60, 2), tuple(generator.integers(1, 60, 2).tolist())
        image = noise((*shape, 1))
        assert covered(image, size, generator.uniform(0.3, 1)).shape == (*size, 1)


def test_image_that_fits_is_left_alone():
    image = noise((32, 48, 3))
    np.testing.assert_array_equal(covered(image, (32, 48)), image)


def test_pictures_and_pixels():
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = noise((5, 7, channels))
        picture = to_picture(image[:, ::-1])  # Not contiguous.
        assert (picture.mode, picture.size) == (mode, (7, 5))
        np.testing.assert_array_equal(to_pixels(picture), image[:, ::-1])


def test_normalize():
    image = noise((4, 5, 3))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = normalize(image, mean, std)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (image / 255 - mean) / std, atol=1e-6)
    for channels in (1, 3):
        image = noise((4, 5, channels))[:, ::-1]
        found = normalize(image, (0.5,), (0.25,))
        np.testing.assert_allclose(found, (image / 255 - 0.5) / 0.25, atol=1e-6)
