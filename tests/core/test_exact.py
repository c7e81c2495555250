"""Real arithmetic that is equal in every program: against NumPy, whose operations round one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.exact import exact_mean, rounded, to_digits


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def fused_and_rounded_once(a, b, c):
    """What a fused multiply-add gives: float64 holds the product of two float32 exactly."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def test_no_product_is_fused_into_a_sum():
    z, a, b = np.round(1000 * normal(512, 64)), normal(64, seed=1), normal(64, seed=2)
    two_roundings = z * a + b
    assert np.mean(two_roundings != fused_and_rounded_once(z, a, b)) > 0.05  # So a fused one would be seen.
    assert np.array_equal(jax.jit(lambda z, a, b: rounded(z * a) + b)(z, a, b), two_roundings)
    affine = jax.jit(lambda z, a, b: Affine(values=z, scale=a, shift=b).real)
    assert np.array_equal(affine(z, a, b), two_roundings)


def test_factors_known_to_the_compiler_are_not_contracted():
    x = normal(10_000)
    expected = (x * np.float32(0.3)) * np.float32(0.7)
    assert np.any(expected != x * np.float32(0.3 * 0.7))
    assert np.array_equal(jax.jit(lambda x: rounded(x * 0.3) * 0.7)(x), expected)


def test_quotients_by_square_roots_stay_what_they_are():
    x, v = normal(10_000), np.abs(normal(10_000, seed=1)) + np.float32(0.1)
    assert np.array_equal(jax.jit(lambda x, v: x / rounded(jnp.sqrt(v)))(x, v), x / np.sqrt(v))


def test_rounding_has_the_gradient_of_the_identity():
    x = normal(5)
    assert np.array_equal(jax.grad(lambda x: jnp.sum(3 * rounded(x)))(x), np.full(5, 3))


CASES = {
    # (terms, largest, digits expected, bits expected of each)
    "4-bit weights, few terms": (9, 8, 2, 12),
    "4-bit weights, 1024 terms": (1024, 8, 2, 12),
    "4-bit weights, 1025 terms": (1025, 8, 3, 11),
    "8-bit weights, 720 terms": (720, 128, 3, 8),
    "a mean": (196, 1, 2, 12),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_digits_are_short_and_complete(case):
    terms, largest, count, width = case
    x = normal(3, 40, 7) * np.float32([1e-9, 1, 3e7])[:, None, None]
    digits = jax.jit(lambda x: to_digits(x, (1, 2), terms=terms, largest=largest))(x)
    values = np.stack(digits.digits).astype(np.float64)
    assert values.shape == (count, 3, 40, 7) and digits.base == 2**width
    assert np.array_equal(values, np.round(values))
    assert np.abs(values).max() <= digits.base / 2
    assert np.abs(values).max() * largest * terms <= 2**24
    places = digits.base ** np.arange(count - 1, -1, -1.0)
    joined = np.einsum("d,dnij->nij", places, values) * np.asarray(digits.unit, np.float64)
    assert np.all(np.abs(joined - x) <= np.asarray(digits.unit) / 2)
    assert np.all(np.asarray(digits.unit)[:, 0, 0] <= np.abs(x).max((1, 2)) * 2.0**-22)


@pytest.mark.parametrize("terms", [2**24 - 1, 2**24])
def test_the_most_terms_have_digits_of_one_bit(terms):
    x = normal(5)
    digits = to_digits(x, (0,), terms=terms)
    assert digits.base == 2 and max(int(np.abs(digit).max()) for digit in digits.digits) <= 1
    assert np.all(np.abs(digits.joined(digits.digits) - x) <= digits.unit)
    with pytest.raises(ValueError, match=r"16777217 terms times 1 pass 2\^24"):
        to_digits(x, (0,), terms=2**24 + 1)


def test_digits_of_nothing_and_of_no_number():
    x = np.zeros((4, 3), np.float32)
    x[1], x[2, 0], x[3, 1] = 1e-30, np.inf, np.nan
    digits = to_digits(x, (1,), terms=3)
    total = digits.joined([jnp.sum(digit, 1, keepdims=True) for digit in digits.digits])[:, 0]
    assert np.array_equal(np.isnan(total), [False, False, True, True])
    assert np.array_equal(total[:2], [0, 0])  # Far below the smallest unit.


def test_sums_of_digits_do_not_depend_on_their_order():
    x, w = normal(5, 900), np.random.default_rng(1).integers(-8, 8, (900, 6)).astype(np.float32)
    order = np.random.default_rng(2).permutation(900)

    @jax.jit
    def product(x, w):
        digits = to_digits(x, (1,), terms=900, largest=8)
        return digits.joined([digit @ w for digit in digits.digits])

    assert np.array_equal(product(x, w), product(x[:, order], w[order]))
    assert np.array_equal(product(x, w)[2:3], product(x[2:3], w))
    # Half a unit, 2^-22 of the largest value at most, for each of 900 terms; and one rounding.
    np.testing.assert_allclose(product(x, w), x.astype(np.float64) @ w, atol=900 * 8 * 4 * 2.0**-23)


def test_mean_does_not_depend_on_the_order():
    x = normal(4, 9, 11, 5)
    shuffled = np.random.default_rng(0).permutation(x.reshape(4, 99, 5), axis=1)
    mean = jax.jit(lambda x: exact_mean(x, (1, 2)))(x)
    assert np.array_equal(mean, exact_mean(shuffled, (1,)))
    np.testing.assert_allclose(mean, x.mean((1, 2), dtype=np.float64), atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(exact_mean(x, (1, 2)) ** 2))(x)
    np.testing.assert_allclose(gradient, np.broadcast_to(2 / 99 * mean[:, None, None], x.shape), rtol=1e-5)


def test_float64_keeps_its_precision():
    with jax.enable_x64(True):
        x = normal(2, 300, dtype=np.float64)
        np.testing.assert_allclose(exact_mean(x, (1,)), x.mean(1), rtol=0, atol=1e-15)


def test_affine_maps_compose():
    """Bias, batch norm and layer scale one after the other, and at once."""
    with jax.enable_x64(True):
        z = normal(3, 4, dtype=np.float64)
        bias, mean, factor, shift, scale = (normal(4, seed=i, dtype=np.float64) for i in range(1, 6))
        y = Affine(values=z, scale=jnp.ones(4), shift=jnp.zeros(4)) + bias
        y = ((y - mean) * factor + shift) * scale
        expected = ((z + bias - mean) * factor + shift) * scale
        np.testing.assert_allclose(y.real, expected, rtol=1e-12, atol=1e-14)
