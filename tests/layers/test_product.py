"""The scaled convolution and its gradients against the formula they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.product import exact_convolution, exact_selection, kernel_digits, scaled_convolution

CASES = {
    "pointwise": ((2, 4, 5, 3), (1, 1, 3, 4), ConvGeometry()),
    "3x3 stride 2": ((2, 6, 5, 3), (3, 3, 3, 4), ConvGeometry(2, 1)),
    "3x3 narrowing": ((2, 5, 6, 6), (3, 3, 6, 2), ConvGeometry(1, 1)),
    "depthwise": ((2, 6, 7, 3), (5, 5, 1, 3), ConvGeometry(1, 2, 3)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def naive(x, integers, scale, geometry):
    p, s = geometry.padding, geometry.stride
    return lax.conv_general_dilated(
        x,
        integers * scale,
        (s, s),
        ((p, p), (p, p)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
    )


def operands(case):
    x_shape, kernel_shape, geometry = case
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, x_shape).astype(np.float64)
    integers = rng.integers(-8, 8, kernel_shape).astype(np.float64)
    return x, integers, rng.uniform(0.05, 0.2, kernel_shape[-1]), geometry


@cases
def test_value_and_gradients_are_those_of_the_naive_formula(case):
    x, integers, scale, geometry = operands(case)
    with jax.enable_x64(True):
        y, vjp = jax.vjp(
            lambda x, w, s: scaled_convolution(x, w, s, geometry, jnp.float64, jnp.float64),
            x,
            integers,
            scale,
        )
        expected, expected_vjp = jax.vjp(lambda x, w, s: naive(x, w, s, geometry), x, integers, scale)
        dy = np.random.default_rng(1).standard_normal(y.shape)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(vjp(dy), expected_vjp(dy), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@cases
def test_gradients_agree_with_finite_differences(case):
    """Central differences of a curved function of the product, along one direction per argument."""
    x, integers, scale, geometry = operands(case)
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):

        def loss(x, w, s):
            return jnp.sum(jnp.sin(scaled_convolution(x, w, s, geometry, jnp.float64, jnp.float64)))

        loss = jax.jit(loss)
        arguments = (x, integers, scale)
        gradients = jax.grad(loss, (0, 1, 2))(*arguments)
        for i, gradient in enumerate(gradients):
            direction = rng.standard_normal(gradient.shape)
            step = 1e-6

            def moved(sign, i=i, direction=direction, step=step):
                shift = sign * step * direction
                return [a + shift if i == j else a for j, a in enumerate(arguments)]

            slope = (loss(*moved(1)) - loss(*moved(-1))) / (2 * step)
            np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6)


@cases
@pytest.mark.parametrize("operand", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.int8])
def test_narrow_operands_change_no_bit_of_the_forward_pass(case, operand):
    x, integers, scale, geometry = operands(case)
    x, integers, scale = (jnp.asarray(a, jnp.float32) for a in (x, integers, scale))
    wide = scaled_convolution(x, integers, scale, geometry, jnp.float32, jnp.float32)
    narrow = scaled_convolution(x, integers, scale, geometry, operand, jnp.float32)
    assert narrow.dtype == jnp.float32
    assert np.array_equal(wide, narrow)


@pytest.mark.slow
@cases
@pytest.mark.parametrize("operand", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.int8])
def test_gradients_are_those_of_float32_when_only_the_forward_operands_are_narrow(case, operand):
    """What the backward pass keeps in a narrow type are counts, which it holds exactly."""
    x, integers, scale, geometry = operands(case)
    arguments = [jnp.asarray(a, jnp.float32) for a in (x, integers, scale)]

    def gradients(operand):
        def loss(x, w, s):
            y = scaled_convolution(x, w, s, geometry, operand, jnp.float32)
            return jnp.sum(jnp.sin(y))

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*arguments)

    for narrow, wide in zip(gradients(operand), gradients(jnp.float32), strict=True):
        assert narrow.dtype == jnp.float32
        assert np.array_equal(narrow, wide)


def test_bfloat16_gradients_round_operands_only():
    """dy rounds to bfloat16 (8 bits) before the products; their sums are float32."""
    x, integers, scale, geometry = operands(CASES["3x3 narrowing"])
    x, integers, scale = (jnp.asarray(a, jnp.float32) for a in (x, integers, scale))

    def gradients(gradient_dtype):
        def loss(x, integers):
            y = scaled_convolution(x, integers, scale, geometry, jnp.bfloat16, gradient_dtype)
            return jnp.sum(jnp.sin(y))

        return jax.grad(loss, (0, 1))(x, integers)

    for rounded, exact in zip(gradients(jnp.bfloat16), gradients(jnp.float32), strict=True):
        assert rounded.dtype == jnp.float32
        error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
        assert 0 < error < 2**-8


@cases
@pytest.mark.parametrize("bits", [4, 8])
def test_product_of_real_values_is_equal_alone_and_among_others(case, bits):
    x_shape, kernel_shape, geometry = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, *x_shape[1:])).astype(np.float32)
    integers = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), kernel_shape).astype(np.float32)
    together = exact_convolution(x, integers, geometry, bits)
    alone = jax.jit(exact_convolution, static_argnums=(2, 3))(x[3:4], integers, geometry, bits)
    assert np.array_equal(together[3:4], alone)
    expected = naive(x.astype(np.float32), integers, np.float32(1), geometry)
    np.testing.assert_allclose(together, expected, rtol=0, atol=2**bits * kernel_shape[2] * 1e-5)


def test_order_of_channels_changes_no_bit_of_a_product_of_real_values():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 3, 720)).astype(np.float32)
    integers = rng.integers(-8, 8, (1, 1, 720, 16)).astype(np.float32)
    order = rng.permutation(720)
    y = exact_convolution(x, integers, ConvGeometry(), 4)
    assert np.array_equal(y, exact_convolution(x[..., order], integers[:, :, order], ConvGeometry(), 4))


@cases
def test_product_of_real_values_passes_its_gradients_straight_through(case):
    x, integers, _, geometry = operands(case)
    with jax.enable_x64(True):
        ones = np.ones(integers.shape[-1])
        y, vjp = jax.vjp(lambda *a: exact_convolution(*a, geometry, 4), x, integers)
        expected, expected_vjp = jax.vjp(lambda *a: naive(*a, ones, geometry), x, integers)
        dy = np.random.default_rng(1).standard_normal(y.shape)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(vjp(dy), expected_vjp(dy), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("levels", [1, 4, 127])
def test_float_weights_of_counts(case, levels):
    """As in float64 to the last bits of float32, in any order of the channels; gradients as of the sum."""
    x_shape, kernel_shape, geometry = case
    generator = np.random.default_rng(levels)
    counts = generator.integers(0, levels + 1, x_shape).astype(np.float32)
    kernel = (generator.normal(size=kernel_shape) * np.float32([1, 1e-3, 1e3, 0][: kernel_shape[-1]])).astype(
        np.float32
    )
    select = jax.jit(exact_selection, static_argnums=(2, 3))
    y = np.asarray(select(counts, kernel, geometry, levels))
    with jax.enable_x64(True):
        expected = np.asarray(naive(*map(np.float64, (counts, kernel, np.ones(kernel_shape[-1]))), geometry))
    largest = np.abs(kernel).max((0, 1, 2)) * levels * np.prod(kernel_shape[:3])
    assert np.all(np.abs(y - expected) <= 2.0**-23 * largest)
    if geometry.groups == 1:
        order = generator.permutation(x_shape[-1])
        np.testing.assert_array_equal(select(counts[..., order], kernel[:, :, order], geometry, levels), y)
    digits = kernel_digits(kernel, levels)
    assert digits.base <= 128 and all(np.abs(d).max() <= digits.base / 2 for d in digits.digits)

    dy = generator.normal(size=y.shape).astype(np.float32)
    _, vjp = jax.vjp(lambda x, w: exact_selection(x, w, geometry, levels), counts, kernel)
    _, plain = jax.vjp(lambda x, w: naive(x, w, np.float32(1), geometry), counts, kernel)
    for one, other in zip(vjp(dy), plain(dy), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
