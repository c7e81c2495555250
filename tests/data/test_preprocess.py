"""From decoded images to inputs: the order of the augmentations, and what each field changes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.data.augment import (
    ERASED_BOX,
    NOISE_KEY,
    draw_affine,
    draw_erasing,
    draw_flip,
    draw_resized_crop,
)
from qsdt_jax.data.geometry import resize_and_crop
from qsdt_jax.data.images import normalize
from qsdt_jax.data.inputs import erase, to_inputs
from qsdt_jax.data.pipeline import training_batches
from qsdt_jax.data.preprocess import Preprocess
from qsdt_jax.data.randaugment import rand_augment
from qsdt_jax.data.sources import FakeSource
from qsdt_jax.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Preprocess(
    size=(32, 48),
    mean=MEAN,
    std=STD,
    augmentation="crop_flip",
    crop_area=(0.2, 0.9),
    crop_aspect=(0.5, 1.5),
    randaugment_magnitude=8.0,
    randaugment_std=0.7,
    randaugment_operations=1,
    erase_probability=0.6,
    evaluation_crop_ratio=0.875,
)


def image(shape=(60, 50, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def inputs(preprocess: Preprocess, example) -> np.ndarray:
    """What the network takes of an example."""
    batch = {name: np.asarray(value)[None] for name, value in example.items()}
    return np.asarray(to_inputs(batch, preprocess.normalization)["image"][0])


def test_order_of_training_is_that_of_timm():
    changed = set()
    for seed in range(30):
        generator = np.random.default_rng(seed)
        crop = draw_resized_crop(generator, (60, 50), (32, 48), area=(0.2, 0.9), aspect=(0.5, 1.5))
        crop = crop.apply_image(image())
        flipped = draw_flip(generator, 48).apply_image(crop)
        strength = {"magnitude": 8.0, "magnitude_std": 0.7, "num_operations": 1}
        augmented = rand_augment({"image": flipped}, generator, fill=(124, 116, 104), **strength)["image"]
        normal = normalize(augmented, MEAN, STD)
        drawn = draw_erasing(generator, (32, 48), probability=0.6)
        box, key = drawn[ERASED_BOX], drawn[NOISE_KEY]
        erased = erase(jnp.asarray(normal[None]), jnp.asarray(box[None]), jnp.asarray(key[None]))[0]
        found = IMAGENET.train({"image": image(), "label": 5}, np.random.default_rng(seed))
        assert found["image"].dtype == np.uint8 and found["label"] == 5
        found = inputs(IMAGENET, found)
        np.testing.assert_array_equal(found, erased)
        assert found.dtype == np.float32
        changed.add((flipped is not crop, np.array_equal(augmented, flipped), bool(box.any())))
    assert len(changed) == 8  # Each change happened, and did not happen, with and without the others.


def test_evaluation_cuts_out_the_middle_and_draws_nothing():
    view = resize_and_crop((60, 50), (32, 48), 0.875).apply_image(image())
    np.testing.assert_array_equal(IMAGENET.view(image())["image"], view)
    found = IMAGENET.evaluate({"image": image(), "label": 5})
    assert found.keys() == {"image", "label"}
    np.testing.assert_array_equal(inputs(IMAGENET, found), normalize(view, MEAN, STD))
    whole = dataclasses.replace(IMAGENET, evaluation_crop_ratio=1.0).view(image())["image"]
    assert not np.array_equal(whole, view)


@pytest.mark.parametrize("augmentation", ["none", "affine", "crop_flip"])
def test_by_default_only_the_geometry_is_random(augmentation):
    preprocess = Preprocess(size=(16, 16), mean=(0.3,), std=(0.4,), augmentation=augmentation)
    generator, other = np.random.default_rng(0), np.random.default_rng(0)
    grey = image((20, 20, 1))
    if augmentation == "crop_flip":
        expected = draw_resized_crop(other, (20, 20), (16, 16)).apply_image(grey)
        expected = draw_flip(other, 16).apply_image(expected)
    else:
        expected = resize_and_crop((20, 20), (16, 16)).apply_image(grey)
        if augmentation == "affine":
            expected = draw_affine(other, (16, 16)).apply_image(expected)
    found = preprocess.train({"image": grey, "label": 0}, generator)
    assert found.keys() == {"image", "label"}
    np.testing.assert_array_equal(inputs(preprocess, found), normalize(expected, (0.3,), (0.4,)))
    assert generator.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize("augmentation", ["none", "affine", "crop_flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_with_grey_and_colour(augmentation, channels):
    """One mean for all channels, too."""
    preprocess = dataclasses.replace(IMAGENET, mean=(0.5,), std=(0.2,), augmentation=augmentation)
    results = set()
    for seed in range(30):
        example = {"image": image((60, 50, channels)), "label": 0}
        found = inputs(preprocess, preprocess.train(example, np.random.default_rng(seed)))
        assert found.shape == (32, 48, channels) and found.dtype == np.float32
        results.add(found.tobytes())
    assert len(results) > 20


@pytest.mark.parametrize("magnitude", [0.0, 9.0])
def test_magnitude_zero_turns_randaugment_off(magnitude):
    preprocess = Preprocess(size=(16, 16), mean=MEAN, std=STD, randaugment_magnitude=magnitude)
    example = {"image": image((16, 16, 3)), "label": 0}
    results = {preprocess.train(example, np.random.default_rng(s))["image"].tobytes() for s in range(30)}
    assert (len(results) > 1) == (magnitude > 0)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int64, np.bool_])
def test_what_is_no_bytes_is_refused(dtype):
    """At a size that nothing resizes; it would reach the network as it is."""
    plain = Preprocess(size=(16, 16), mean=(0.5,), std=(0.2,))
    for pixels in (np.ones((16, 16, 1), dtype), np.ones((16, 16), np.uint8)):
        told = rf"^an image is {pixels.dtype} \(16, 16.*\); expected uint8 \(H, W, C\)$"
        with pytest.raises(UserError, match=told):
            plain.train({"image": pixels}, np.random.default_rng(0))
        with pytest.raises(UserError, match=told):
            plain.evaluate({"image": pixels})


def test_batches_are_a_function_of_seed_and_position():
    def batches(seed, first_step, count):
        stream = training_batches(
            FakeSource(24, (40, 40, 3), 5), IMAGENET.train, seed=seed, batch_size=8, first_step=first_step
        )
        return [next(stream)["image"].tobytes() for _ in range(count)]

    whole = batches(1, 0, 7)
    assert len(set(whole)) == 7
    assert batches(1, 4, 3) == whole[4:]
    assert not set(batches(2, 0, 7)) & set(whole)
