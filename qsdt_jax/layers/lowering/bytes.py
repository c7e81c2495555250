"""Whole numbers too large for int8 as several int8 arrays; the products of these are joined again."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

LARGEST_BYTE = 127
LARGEST_HALF = 2**11  # float16 holds all whole numbers up to it.
BASE = 128


def in_bytes(x: jax.Array, largest: int) -> list[jax.Array]:
    """Int8 arrays of which x is the sum, the first times the highest power of `BASE`.

    Args:
      x: whole numbers, in a float type or int8.
      largest: size of the largest of them.
    """
    if x.dtype == jnp.int8:
        return [x]
    pieces, rest = [], x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    while largest > LARGEST_BYTE:
        high = jnp.round(rest / BASE)
        pieces.append((rest - high * BASE).astype(jnp.int8))  # -64..64
        rest, largest = high, (largest + BASE // 2) // BASE
    return [rest.astype(jnp.int8), *reversed(pieces)]


def joined(sums: Sequence[jax.Array]) -> jax.Array:
    """The sum that x would have given, from those of its pieces; exact where the sums and it are."""
    total = sums[0]
    for low in sums[1:]:
        total = total * BASE + low
    return total
