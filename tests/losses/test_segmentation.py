"""Cross-entropy of pixels, and the enlargement that it is of, against PyTorch's numbers and NumPy."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.layers.upsample import BilinearUpsample, NearestUpsample, bilinear_upsample
from qsdt_jax.losses.segmentation import pixel_cross_entropy
from tests.golden.recipe import FOLDER

IGNORED = 255
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def resized():
    """PyTorch's `interpolate` of x (2, 3, 5, 7) to twice the size, and a gradient of it."""
    with np.load(FOLDER / "resize.npz") as file:
        return dict(file)


def test_enlargements_are_pytorchs(resized):
    with jax.enable_x64(True):
        x = jnp.asarray(resized["x"].transpose(0, 2, 3, 1))
        y, back = jax.vjp(lambda x: BilinearUpsample().apply({}, x), x)
        np.testing.assert_allclose(y, resized["bilinear/10x14"].transpose(0, 2, 3, 1), atol=1e-14)
        (grad,) = back(jnp.asarray(resized["cotangent"].transpose(0, 2, 3, 1)))
        np.testing.assert_allclose(grad, resized["bilinear/10x14/grad"].transpose(0, 2, 3, 1), atol=1e-13)
        nearest = NearestUpsample().apply({}, x)
        np.testing.assert_array_equal(nearest, resized["nearest/10x14"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 6, 4, 3)])
def test_enlargement_has_one_result_in_every_program(shape):
    """Compiled, operation by operation, and in NumPy, which rounds each operation."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = x
    for axis in (1, 2):
        size = expected.shape[axis]
        pixels = []
        for i in range(2 * size):
            a = expected.take(i // 2, axis)
            b = expected.take(np.clip(i // 2 + (1 if i % 2 else -1), 0, size - 1), axis)
            pixels.append((((a + a) + a) + b) * np.float32(0.25))
        expected = np.stack(pixels, axis)
    np.testing.assert_array_equal(bilinear_upsample(jnp.asarray(x)), expected)
    np.testing.assert_array_equal(jax.jit(bilinear_upsample)(x), expected)


def by_hand(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Sums over labelled pixels, one by one, divided by all pixels and by the labelled ones."""
    scores, classes = np.asarray(bilinear_upsample(jnp.asarray(logits)), np.float64), logits.shape[-1]
    losses = [
        np.log(np.exp(scores[place]).sum()) - scores[place][label]
        for place, label in np.ndenumerate(labels)
        if label < classes
    ]
    return sum(losses) / labels.size, sum(losses) / max(len(losses), 1)


@pytest.mark.parametrize("height", [3, 16])  # One strip of three rows, two of eight.
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strips_add_up_to_the_mean_over_pixels(height, dtype):
    generator = np.random.default_rng(height)
    logits = generator.standard_normal((2, height, 5, 4)).astype(np.float32)
    labels = generator.integers(0, 6, (2, 2 * height, 10)).astype(dtype)
    labels[0, ::3] = np.iinfo(dtype).max
    over_all, over_labelled = by_hand(logits, labels)
    loss = jax.jit(pixel_cross_entropy, static_argnums=2)
    np.testing.assert_allclose(loss(logits, labels, "all"), over_all, rtol=1e-6)
    np.testing.assert_allclose(loss(logits, labels, "labelled"), over_labelled, rtol=1e-6)


def test_weights_of_classes_make_a_weighted_mean():
    generator = np.random.default_rng(7)
    logits = generator.standard_normal((2, 3, 5, 4)).astype(np.float32)
    labels = generator.integers(0, 6, (2, 6, 10)).astype(np.uint8)
    weights = (0.25, 1.0, 2.0, 0.5)
    scores = np.asarray(bilinear_upsample(jnp.asarray(logits)), np.float64)
    total = weight = 0.0
    for place, label in np.ndenumerate(labels):
        if label < 4:
            total += weights[label] * (np.log(np.exp(scores[place]).sum()) - scores[place][label])
            weight += weights[label]
    loss = jax.jit(pixel_cross_entropy, static_argnums=(2, 3))
    np.testing.assert_allclose(loss(logits, labels, "labelled", weights), total / weight, rtol=1e-6)
    np.testing.assert_allclose(loss(logits, labels, "all", weights), total / labels.size, rtol=1e-6)
    assert loss(logits, np.full_like(labels, IGNORED), "labelled", weights) == 0
    with pytest.raises(ValueError, match="4 numbers or none, got 3"):
        pixel_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), "all", weights[:3])


def test_gradient_is_that_of_the_whole_map():
    generator = np.random.default_rng(5)
    logits = generator.standard_normal((1, 16, 4, 3)).astype(np.float32)
    labels = generator.integers(0, 4, (1, 32, 8)).astype(np.uint8)

    def whole(logits):
        scores = jax.nn.log_softmax(bilinear_upsample(logits))
        return -jnp.sum(scores * jax.nn.one_hot(labels, 3)) / labels.size

    found, expected = jax.grad(pixel_cross_entropy)(logits, labels), jax.grad(whole)(logits)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("average", ["all", "labelled"])
def test_no_labelled_pixel_costs_nothing(average):
    logits, labels = jnp.ones((1, 2, 2, 3)), jnp.full((1, 4, 4), IGNORED, jnp.uint8)
    loss, grad = jax.value_and_grad(lambda x: pixel_cross_entropy(x, labels, average))(logits)
    assert loss == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.fixture(scope="module")
def spread(tmp_path_factory) -> dict[str, np.ndarray]:
    """Results of `tests.losses.two_devices`."""
    file = tmp_path_factory.mktemp("spread") / "found.npz"
    command = [sys.executable, "-m", "tests.losses.two_devices", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(file) as stored:
        return dict(stored)


@pytest.mark.parametrize("average", ["all", "labelled"])
def test_two_devices_learn_what_one_learns(spread, average):
    """Though one of them has more labelled pixels than the other."""
    for name in ("value", "gradient"):
        expected = spread[f"{average}/one/{name}"]
        assert np.all(np.abs(expected) > 1e-3)
        np.testing.assert_allclose(spread[f"{average}/two/{name}"], expected, rtol=1e-12)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"labels of logits .* are \(1, 4, 4\), got \(1, 2, 2\)"):
        pixel_cross_entropy(jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 2, 2), jnp.uint8))
    with pytest.raises(ValueError, match="average must be one of all, labelled; got 'mean'"):
        pixel_cross_entropy(jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 4, 4), jnp.uint8), "mean")  # pyright: ignore
