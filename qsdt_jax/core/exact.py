"""Real arithmetic with the same result in every program, bit for bit.

Products of spikes are sums of small whole numbers and exact by nature. What remains is real: one scale and
shift after each product, the layers that receive real values, and means. There a compiler is free to choose
the last bit, and XLA does, depending on what it fuses. Each freedom has its answer here:

    a product and the sum after it may become one fused multiply-add      `rounded`
    a * c1 * c2 may become a * (c1 * c2), a / sqrt(b) a * rsqrt(b)        `rounded` in between
    the result of a sum of many depends on its order                      `Digits`: sums of whole numbers

So evaluation, integer form and spike-driven form agree to the bit, on any batch size, and so does a forward
pass in NumPy, whose operations round one by one.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.typing import DTypeLike

LARGEST_INT32 = 2**31 - 1


def largest_exact(dtype: DTypeLike) -> int:
    """The largest whole number up to which a float type holds all of them: 2^24 for float32."""
    return 2 ** (jnp.finfo(dtype).nmant + 1)


LARGEST_FLOAT32 = largest_exact(jnp.float32)


def is_narrow(dtype: DTypeLike) -> bool:
    """Whether a type has fewer bits than float32, so that real operands of products are rounded to it."""
    return jnp.dtype(dtype).itemsize < 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    """Says of a product that its operands are whole numbers, and how large they are at most.

    Attributes:
      left: largest size of the first operand: D of spike counts.
      right: largest size of the second, which int8 holds: 2^(b-1) of b-bit weights.
    """

    left: int
    right: int

    def sum_of(self, terms: int) -> int:
        """What the size of a sum of `terms` products, and of each part of it, does not exceed."""
        return terms * self.left * self.right


def attention_sum(tokens: int, width: int, levels: int) -> int:
    """The largest sum in q (k^T v) of counts up to D: L d D^3 for L tokens and heads of d channels.

    Reached where every count is D: k^T v is then L D^2, the sum of L products, and a sum of d products of it
    with D is that. (The order q k^T first would give the same number.)
    """
    return tokens * width * levels**3


def check_sums(what: str, largest: int) -> None:
    """Raises ValueError where sums of whole numbers up to `largest` have no exact arithmetic on devices."""
    if largest > LARGEST_INT32:
        raise ValueError(
            f"sums in {what} can reach {largest}, but int32 holds whole numbers up to {LARGEST_INT32}: take "
            "fewer levels, or exact_evaluation=False, with which they are rounded"
        )


@jax.custom_jvp
def rounded(x: jax.Array) -> jax.Array:
    """x, of which the compiler must know the rounded value before it goes on (no fused multiply-add).

    A saturation at the largest finite number, an operation that cannot be optimised away and that costs no
    pass over memory. XLA removes `optimization_barrier` and a `reduce_precision` to x's own type before LLVM
    contracts (seen on CPU).
    """
    largest = jnp.finfo(x.dtype).max
    return jnp.maximum(x, jnp.array(-largest, x.dtype))


@rounded.defjvp
def _rounded_jvp(primals, tangents):
    return rounded(*primals), tangents[0]


class Digits(struct.PyTreeNode):
    """Real values in fixed point, cut into digits so short that sums of them are exact.

    value = unit * sum over i of digits[i] * base^(n - 1 - i), within half a unit of what was cut.

    Attributes:
      digits: n arrays of whole numbers, the first the most significant, at most base / 2 in size.
      unit: a power of two, common to all values that are summed.
      base: a power of two.
    """

    digits: tuple[jax.Array, ...]
    unit: jax.Array
    base: float = struct.field(pytree_node=False)

    def joined(self, sums: Sequence[jax.Array]) -> jax.Array:
        """The real value of n sums of digits, each times the same whole numbers."""
        total = sums[0]
        for digit in sums[1:]:
            total = total * self.base + digit  # The product is exact: a fused multiply-add is no other sum.
        return total * self.unit


def to_digits(
    x: jax.Array, axes: Sequence[int], *, terms: int, largest: int = 1, widest: int | None = None
) -> Digits:
    """Cuts real values into digits; the unit follows the largest of them.

    Together they hold 23 bits of a float32 and 51 of a float64 array, counted from its largest value, and the
    sign. Times 4-bit weights float32 takes 2 digits of 12 bits for up to 1024 terms.

    Args:
      x: (...) real values.
      axes: over which the values have one unit; those that are summed over must be among them.
      terms: number of products in one sum.
      largest: size of the whole numbers that the digits are multiplied with.
      widest: most bits of a digit, where the sums leave it more: 7 for digits that int8 holds.

    Raises:
      ValueError: digits of one bit would already give sums that are not exact.
    """
    bits = jnp.finfo(x.dtype).nmant + 1
    # Sums stay exact: terms * largest * 2^(width - 1) <= 2^bits.
    width = min(widest or bits // 2, bits // 2, bits + 1 - (terms * largest - 1).bit_length())
    if width < 1:
        raise ValueError(
            f"{terms} terms times {largest} pass 2^{bits}: no digits of {x.dtype} have exact sums"
        )
    count = math.ceil(2 * (bits // 2) / width)
    unit = _power_of_two(jnp.max(jnp.abs(x), tuple(axes), keepdims=True)) * 2.0 ** (2 - count * width)
    rest, digits = jnp.round(x * (1 / unit)), []
    for i in reversed(range(1, count)):
        digit = jnp.round(rest * 2.0 ** (-i * width))
        rest = rest - digit * 2.0 ** (i * width)
        digits.append(digit)
    return Digits(digits=(*digits, rest), unit=unit, base=2.0**width)


def _power_of_two(x: jax.Array) -> jax.Array:
    """The largest power of two that is not above x >= 0; 2^-64 for what is smaller."""
    integer = {4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    exponent = ((1 << (8 * x.dtype.itemsize - 1)) - 1) ^ ((1 << jnp.finfo(x.dtype).nmant) - 1)
    bits = lax.bitcast_convert_type(jnp.maximum(x, 2.0**-64), integer)
    return lax.bitcast_convert_type(bits & integer(exponent), x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def exact_mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Mean over some axes that does not depend on the order of summation."""
    count = math.prod(x.shape[axis] for axis in axes)
    digits = to_digits(x, axes, terms=count)
    total = digits.joined([jnp.sum(digit, axes, keepdims=True) for digit in digits.digits])
    return jnp.squeeze(rounded(total * (1 / count)), axes)


@exact_mean.defjvp
def _exact_mean_jvp(axes, primals, tangents):
    return exact_mean(*primals, axes), jnp.mean(tangents[0], axes)
