"""Whole numbers as sums of pieces that bfloat16 holds."""

import math

import jax
import jax.numpy as jnp

PIECE_BITS = 9
LARGEST_PIECE = 2 ** (PIECE_BITS - 1)  # With its sign, bfloat16 holds what is not larger.


def pieces_of(x: jax.Array, largest: int) -> list[jax.Array]:
    """Whole numbers x = sum of pieces[i] * 2^(9 i), each piece at most 2^8 in size."""
    pieces, base = [], 2**PIECE_BITS
    while largest > LARGEST_PIECE:
        high = jnp.floor(x * (1 / base) + 0.5)
        pieces.append(x - high * base)
        x, largest = high, math.ceil(largest / base)
    return [*pieces, x]
