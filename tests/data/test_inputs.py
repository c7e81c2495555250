"""Bytes become inputs on the device: the pixels of NumPy, bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.data.augment import ERASED_BOX, NOISE_KEY
from qsdt_jax.data.images import Normalization, normalize
from qsdt_jax.data.inputs import erase, to_inputs

NORMALIZATIONS = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "digits": Normalization((0.31,), (0.35,)),
    "odd": Normalization((-0.1, 1.7, 0.3), (3.1, 0.007, 1e-3)),
}
each = pytest.mark.parametrize("normalization", NORMALIZATIONS.values(), ids=NORMALIZATIONS.keys())


def every_byte(channels: int) -> np.ndarray:
    """(2, 16, 48, C), all bytes in all channels, in another order in each."""
    generator = np.random.default_rng(0)
    rows = [generator.permutation(np.tile(np.arange(256, dtype=np.uint8), 6)) for _ in range(channels)]
    return np.stack(rows, -1).reshape(2, 16, 48, channels)


def expected(image: np.ndarray, normalization: Normalization) -> np.ndarray:
    return np.stack([normalize(one, normalization.mean, normalization.std) for one in image])


@each
def test_pixels_are_numpys_bit_for_bit(normalization):
    """Alone, and inside of a larger program, which the compiler may rearrange."""
    image = every_byte(3)
    found = to_inputs({"image": image}, normalization)["image"]
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected(image, normalization))

    @jax.jit
    def inside(image):
        inputs = to_inputs({"image": image}, normalization)["image"]
        return inputs, jnp.sum(3 * inputs + 1)

    np.testing.assert_array_equal(inside(image)[0], expected(image, normalization))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_one_value_is_for_all_channels(channels):
    normalization = NORMALIZATIONS["digits"]
    found = to_inputs({"image": every_byte(channels)}, normalization)["image"]
    np.testing.assert_array_equal(found, expected(every_byte(channels), normalization))


def test_what_the_batch_says_is_erased_after_normalisation():
    normalization, image = NORMALIZATIONS["imagenet"], every_byte(3)
    boxes = np.array([[2, 3, 5, 7], [0, 0, 0, 0]], np.int32)
    keys = np.array([[1, 2], [0, 0]], np.uint32)
    batch = {"image": image, "label": np.arange(2), ERASED_BOX: boxes, NOISE_KEY: keys}
    found = to_inputs(batch, normalization)
    assert found.keys() == {"image", "label"}
    plain = expected(image, normalization)
    pixels = np.asarray(found["image"])
    np.testing.assert_array_equal(pixels[1], plain[1])
    inside = np.zeros((16, 48), bool)
    inside[2:7, 3:10] = True
    np.testing.assert_array_equal(pixels[0][~inside], plain[0][~inside])
    noise = jax.random.normal(jax.random.wrap_key_data(keys[0], impl="threefry2x32"), (16, 48, 3))
    np.testing.assert_array_equal(pixels[0][inside], np.asarray(noise)[inside])
    # The same once more: inputs are no longer bytes.
    np.testing.assert_array_equal(to_inputs(found, normalization)["image"], pixels)


def test_keys_alone_decide_the_noise():
    images, boxes = jnp.zeros((3, 8, 8, 1)), jnp.tile(jnp.array([0, 0, 8, 8]), (3, 1))
    keys = jnp.array([[0, 1], [1, 0], [0, 1]], jnp.uint32)
    found = np.asarray(erase(images, boxes, keys))
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.any(found[0] == found[1])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_floats_stay_as_they_are(dtype):
    frames = np.arange(12).reshape(1, 2, 2, 3).astype(dtype)
    for normalization in (None, NORMALIZATIONS["digits"]):
        found = to_inputs({"image": frames, "target": np.ones(1, np.int8)}, normalization)
        assert found["image"].dtype == dtype and found["target"].dtype == np.int8
        np.testing.assert_array_equal(found["image"], frames)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int8, np.bool_])
def test_other_pixels_are_refused(dtype):
    """They would reach the network neither normalised nor erased."""
    with pytest.raises(
        ValueError, match=rf"the images are {np.dtype(dtype)} \(1, 2, 2, 3\); expected uint8, or"
    ):
        to_inputs({"image": np.ones((1, 2, 2, 3), dtype)}, NORMALIZATIONS["digits"])


def test_floats_are_not_erased():
    erased = {ERASED_BOX: np.zeros((1, 4), np.int32), NOISE_KEY: np.zeros((1, 2), np.uint32)}
    with pytest.raises(ValueError, match="the images are float32, inputs already; only bytes are erased"):
        to_inputs({"image": np.ones((1, 2, 2, 3), np.float32), **erased}, NORMALIZATIONS["digits"])


def test_a_batch_without_images():
    assert to_inputs({"tokens": np.arange(3)}, None).keys() == {"tokens"}


def test_bytes_need_a_normalisation():
    with pytest.raises(ValueError, match="the images are bytes; expected the normalisation"):
        to_inputs({"image": every_byte(1)}, None)


def test_a_normalisation_is_a_value():
    one = NORMALIZATIONS["digits"]
    assert one == dataclasses.replace(one) and hash(one) == hash(dataclasses.replace(one))
    table = one.table(2)
    assert table.shape == (256, 2) and table.dtype == np.float32
    np.testing.assert_allclose(table[:, 1], (np.arange(256) / 255 - 0.31) / 0.35, rtol=1e-6, atol=1e-7)
