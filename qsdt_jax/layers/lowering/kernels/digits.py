"""The exact product of real rows with whole weights in one kernel: digits are cut where they are multiplied.

    reads x in float32 and weights in int8, writes x W in float32

XLA writes the digits of x (`core.exact.to_digits`) to memory, multiplies them, writes a product for each, and
joins these in what comes next: three times the bytes.

The plain version is `dispatch.convolve_digits` on other platforms. The digits are the same and their sums are
exact, so both give the same bits.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.typing import DTypeLike

from qsdt_jax.layers.lowering.bytes import LARGEST_HALF
from qsdt_jax.layers.lowering.kernels.available import kernels_available
from qsdt_jax.layers.lowering.kernels.spread import by_images, result_of

ROWS, COLUMNS, TERMS = 64, 64, 32  # A block of the result, and of the terms of its sums.
FEWEST_CHANNELS = 16


def can_use_digits(dtype: DTypeLike, channels: int, base: float) -> bool:
    """Whether the kernel is for values of that type, in so many channels, with digits up to `base` / 2."""
    if not kernels_available():
        return False
    return dtype == jnp.float32 and base / 2 <= LARGEST_HALF and channels >= FEWEST_CHANNELS


def digit_product(
    x: jax.Array, unit: jax.Array, matrix: jax.Array, count: int, base: float, interpret: bool = False
) -> jax.Array:
    """x times a matrix of whole numbers, the same in any order of summation.

    Args:
      x: (N, L, I) float32, of N images.
      unit: (N, 1) powers of two: x is rounded to whole numbers of them, of `count` digits.
      matrix: (I, O) int8.
      count: number of digits.
      base: a power of two; digits are at most half of it in size.
      interpret: see the package.

    Returns:
      (N, L, O) float32.
    """

    def run(x, unit, matrix):
        n, rows, terms = x.shape
        columns = matrix.shape[1]
        width = pl.cdiv(terms, TERMS) * TERMS
        kernel = functools.partial(_product, shape=(rows, terms, columns), count=count, base=base)
        return pl.pallas_call(
            kernel,
            out_shape=result_of(x, (n, rows, columns), x.dtype),
            grid=(n, pl.cdiv(rows, ROWS), pl.cdiv(columns, COLUMNS)),
            in_specs=[
                pl.BlockSpec((None, ROWS, width), lambda n, i, j: (n, i, 0)),
                pl.BlockSpec((None, 1), lambda n, i, j: (n, 0)),
                pl.BlockSpec((width, COLUMNS), lambda n, i, j: (0, j)),
            ],
            out_specs=pl.BlockSpec((None, ROWS, COLUMNS), lambda n, i, j: (n, i, j)),
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
            interpret=interpret,
        )(x, unit, matrix)

    return by_images("digit_product", run, "n l i, n u, i o -> n l o")(x, unit, matrix)


def _product(x_ref, unit_ref, matrix_ref, y_ref, *, shape, count: int, base: float):
    rows, terms, columns = shape
    row = pl.program_id(1) * ROWS + jnp.arange(ROWS) < rows
    column = pl.program_id(2) * COLUMNS + jnp.arange(COLUMNS) < columns
    unit = unit_ref[0]

    def add(block, sums):
        at = pl.ds(block * TERMS, TERMS)
        term = block * TERMS + jnp.arange(TERMS) < terms
        x = triton.load(x_ref.at[:, at], mask=row[:, None] & term[None, :], other=0)
        weights = triton.load(matrix_ref.at[at, :], mask=term[:, None] & column[None, :], other=0)
        weights = weights.astype(jnp.float16)
        digits = _digits(_rounded_to_even(x * (1 / unit)), count, base)
        return tuple(
            s + triton.dot(d.astype(jnp.float16), weights) for s, d in zip(sums, digits, strict=True)
        )

    zeros = (jnp.zeros((ROWS, COLUMNS), jnp.float32),) * count
    sums = lax.fori_loop(0, pl.cdiv(terms, TERMS), add, zeros)
    total = sums[0]
    for digit in sums[1:]:
        total = total * base + digit
    triton.store(y_ref, total * unit, mask=row[:, None] & column[None, :])


def _digits(rest: jax.Array, count: int, base: float) -> list[jax.Array]:
    """Whole numbers as `count` digits, the most significant first."""
    digits = []
    for i in reversed(range(1, count)):
        digit = _rounded_to_even(rest * base**-i)
        rest = rest - digit * base**i
        digits.append(digit)
    return [*digits, rest]


def _rounded_to_even(x: jax.Array) -> jax.Array:
    """`jnp.round`, which Triton lacks."""
    below = jnp.floor(x)
    fraction, odd = x - below, below - 2 * jnp.floor(below * 0.5)
    return below + jnp.where((fraction > 0.5) | ((fraction == 0.5) & (odd == 1)), 1.0, 0.0)
