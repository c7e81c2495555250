"""The weight quantiser against the formulas of the LSQ paper, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.lsq import (
    SMALLEST_STEP_SIZE,
    binarize,
    initial_step_size,
    quantize,
    weight_range,
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(bits, seed=0):
    generator = np.random.default_rng(seed)
    w = generator.standard_normal((3, 3, 5, 7))
    w[0, 0, 0] *= 50  # So that some weights lie outside the grid for every number of bits.
    largest = weight_range(bits)[1]
    step_size = 2 * np.abs(w).mean() / np.sqrt(largest) * generator.uniform(0.2, 1.2, 7)
    return w, step_size


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_lie_on_the_grid(bits):
    w, step_size = draw(bits)
    weight = quantize(jnp.asarray(w), jnp.asarray(step_size), bits)
    smallest, largest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert np.array_equal(weight.integers, np.round(np.clip(w / step_size, smallest, largest)))
    assert np.array_equal(weight.scale, step_size)


def test_half_rounds_to_even():
    w = jnp.array([[0.5], [1.5], [-0.5], [-2.5]])
    assert np.array_equal(quantize(w, jnp.ones(1), 4).integers[:, 0], [0, 2, 0, -2])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_follow_the_paper(bits):
    w, step_size = draw(bits)
    smallest, largest = weight_range(bits)
    incoming = np.random.default_rng(1).standard_normal(w.shape)

    def loss(w, step_size):
        weight = quantize(w, step_size, bits)
        return jnp.sum(weight.integers * weight.scale * incoming)

    grad_w, grad_step = jax.grad(loss, (0, 1))(jnp.asarray(w), jnp.asarray(step_size))
    ratio = w / step_size
    inside = (ratio >= smallest) & (ratio <= largest)
    assert inside.any() and not inside.all()
    rounded = np.round(np.clip(ratio, smallest, largest))
    slope = np.where(inside, rounded - ratio, rounded)
    expected = (incoming * slope).sum((0, 1, 2)) / np.sqrt(w.size * largest)
    assert np.allclose(grad_w, incoming * inside, rtol=1e-12)
    assert np.allclose(grad_step, expected, rtol=1e-10)


def test_clip_is_closed_at_both_ends():
    w = jnp.array([[-8.0], [7.0], [7.0001], [-8.0001]])
    gradient = jax.grad(lambda v: jnp.sum(quantize(v, jnp.ones(1), 4).integers))(w)
    assert np.array_equal(gradient[:, 0], [1, 1, 0, 0])


def test_initial_step_size_is_one_for_the_whole_tensor():
    w, _ = draw(4)
    assert np.allclose(initial_step_size(jnp.asarray(w), 4), np.full(7, 2 * np.abs(w).mean() / np.sqrt(7)))


@pytest.mark.parametrize("step", [0.0, -1.0])
def test_a_step_size_driven_to_zero_stays_usable_and_recovers(step):
    w = jnp.ones((4, 1))

    def loss(step_size):
        weight = quantize(w, step_size, 4)
        return jnp.sum((weight.integers * weight.scale - w) ** 2)

    weight = quantize(w, jnp.array([step]), 4)
    assert weight.scale[0] == SMALLEST_STEP_SIZE and np.isfinite(weight.integers).all()
    assert jax.grad(loss)(jnp.array([step]))[0] < 0  # Descent makes it larger again.


def test_one_bit_weights():
    w, _ = draw(4)
    w[0, 0, 0, 0] = 0
    weight = binarize(jnp.asarray(w))
    assert np.array_equal(weight.integers, np.where(w >= 0, 1, -1))
    assert np.allclose(weight.scale, np.abs(w).mean((0, 1, 2)))
    incoming = np.random.default_rng(1).standard_normal(w.shape)

    def loss(w):
        weight = binarize(w)
        return jnp.sum(weight.integers * weight.scale * incoming)

    assert np.allclose(jax.grad(loss)(jnp.asarray(w)), incoming)


@pytest.mark.parametrize("bits", [-1, 0, 9, 32])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match="1 to 8 bits"):
        weight_range(bits)
