"""Surrogate gradients: what stands for the derivative of a spike count.

The count is a staircase c(v) of D unit steps at v = 1/2, 3/2, ..., D - 1/2 (v: the membrane potential
in counts). Its derivative is zero or infinite; in the backward pass each step's delta is replaced by a
bump g of unit area, so that

    dc/dv = sum over j = 1..D of g(v - (j - 1/2)).

With the rectangular bump of width 1 the sum is 1 for 0 < v < D: that is the straight-through gradient of
the published code, given here in closed form (`straight_through`, open interval). The other shapes are the
field's usual ones for binary neurons (D = 1), with the sharpness of spikingjelly's defaults.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Surrogate = Literal["straight_through", "rectangular", "triangle", "sigmoid", "arctan"]


def surrogate_slope(v: jax.Array, levels: int, surrogate: Surrogate) -> jax.Array:
    """Derivative dc/dv of the spike count that the backward pass uses.

    Args:
      v: membrane potential in counts, any shape; the first spike fires at v = 1/2.
      levels: D, the largest count.
      surrogate: the shape of the bump.

    Returns:
      The slope, of v's shape and dtype.

    Raises:
      ValueError: the surrogate is none of the five.
    """
    if surrogate == "straight_through":
        return ((v > 0) & (v < levels)).astype(v.dtype)
    return sum(
        (_bump(v - (j - 0.5), surrogate) for j in range(1, levels + 1)),
        start=jnp.zeros_like(v),
    )


def _bump(x: jax.Array, surrogate: Surrogate) -> jax.Array:
    """A bump of unit area around x = 0."""
    match surrogate:
        case "rectangular":
            return (jnp.abs(x) < 0.5).astype(x.dtype)
        case "triangle":
            return jnp.maximum(0.0, 1.0 - jnp.abs(x))
        case "sigmoid":
            y = jax.nn.sigmoid(4.0 * x)
            return 4.0 * y * (1.0 - y)
        case "arctan":
            return 1.0 / (1.0 + (jnp.pi * x) ** 2)
        case _:
            raise ValueError(f"unknown surrogate {surrogate!r}")
