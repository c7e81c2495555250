"""Products that read spike counts from their codes, in the GPU's way: the same numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.exact import Whole
from qsdt_jax.core.spikes import codes_of
from qsdt_jax.layers import lowering
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.product import scaled_convolution
from tests.platforms import lowered_for

LEVELS = 4
AS_WRITTEN = {"xla_allow_excess_precision": False}
PRODUCTS = {
    "1x1": ((2, 6, 6, 64), (1, 1, 64, 12), ConvGeometry()),
    "1x1 stride 2": ((2, 7, 6, 64), (1, 1, 64, 12), ConvGeometry(2)),
    "3x3": ((2, 6, 6, 32), (3, 3, 32, 12), ConvGeometry(1, 1)),
    "3x3 stride 2": ((2, 6, 6, 32), (3, 3, 32, 12), ConvGeometry(2, 1)),
    "depthwise": ((2, 9, 9, 8), (7, 7, 1, 8), ConvGeometry(1, 3, 8)),
}


def product_and_gradients(case, dtype, stored, *, with_codes: bool):
    x_shape, kernel_shape, geometry = case
    rng = np.random.default_rng(0)
    counts, integers = rng.integers(0, LEVELS + 1, x_shape), rng.integers(-8, 8, kernel_shape)
    codes = codes_of(jnp.float32(counts), jnp.asarray(rng.random(x_shape) < 0.5), LEVELS)
    scale = rng.uniform(0.05, 0.2, kernel_shape[-1])

    def run(x, w, scale):
        product = functools.partial(
            scaled_convolution,
            geometry=geometry,
            operand_dtype=dtype,
            gradient_dtype=dtype,
            whole=Whole(left=LEVELS, right=8),
            stored=stored,
            codes=codes if with_codes else None,
        )
        y, vjp = jax.vjp(product, x, w, scale)
        return y, *vjp(jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype))

    run = lowered_for("cuda", run, AS_WRITTEN)
    return run(*(jnp.float32(a) for a in (counts, integers, scale)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("case", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_codes_give_the_products_and_gradients_of_counts(case, dtype):
    found = product_and_gradients(case, dtype, None, with_codes=True)
    expected = product_and_gradients(case, dtype, None, with_codes=False)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_a_stored_product_is_the_exact_sum_rounded_once_or_not_at_all(case):
    """Those of 1x1 products that int16 holds and of depthwise kernels are not rounded."""
    rng = np.random.default_rng(0)
    x_shape, kernel_shape, geometry = case
    counts, integers = rng.integers(0, LEVELS + 1, x_shape), rng.integers(-8, 8, kernel_shape)
    x, w = jnp.float32(counts), jnp.float32(integers)
    codes, whole = codes_of(x, None, LEVELS), Whole(left=LEVELS, right=8)
    exact = lowering.convolve(x, w, geometry, jnp.float32, whole)
    stored = functools.partial(
        lowering.convolve,
        geometry=geometry,
        dtype=jnp.float32,
        whole=whole,
        stored=jnp.bfloat16,
        codes=codes,
    )
    y = lowered_for("cuda", stored, AS_WRITTEN)(x, w)
    rounded = exact.astype(jnp.bfloat16).astype(jnp.float32)
    assert y.dtype == jnp.float32 and np.any(rounded != exact)
    as_they_are = kernel_shape[0] == 1 or geometry.groups > 1
    np.testing.assert_array_equal(y, exact if as_they_are else rounded)


@pytest.mark.parametrize(("channels", "sums"), [(1023, [-32736, 32732]), (1024, [-32768, 32768])])
def test_the_largest_sums_of_int16_and_those_above(channels, sums):
    """Of 1,024 channels the largest is 2^15, which int16 does not hold, so 32,764 is rounded to 8 bits."""
    x, w = jnp.full((1, 1, 1, channels), 4.0), jnp.full((1, 1, channels, 2), -8.0)
    w = w.at[..., 1].set(8).at[0, 0, 0, 1].set(7)

    def product(x, w, codes):
        return lowering.convolve(
            x, w, ConvGeometry(), jnp.float32, Whole(left=4, right=8), jnp.bfloat16, codes
        )

    y = lowered_for("cuda", product)(x, w, codes_of(x, None, 4))
    assert y[0, 0, 0].tolist() == sums
