"""Enlarging maps by 2: nearest neighbours, and bilinear interpolation that is equal in every program.

Modules, so that what runs a network step by step sees them as steps of it.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class NearestUpsample(nn.Module):
    """Each pixel twice along both axes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (N, H, W, C) -> (N, 2 H, 2 W, C)."""
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class BilinearUpsample(nn.Module):
    """Bilinear interpolation at pixel centres, without antialiasing (PyTorch's align_corners=False)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (N, H, W, C) -> (N, 2 H, 2 W, C)."""
        return bilinear_upsample(x)


def bilinear_upsample(x: jax.Array) -> jax.Array:
    """x (N, H, W, C) -> (N, 2 H, 2 W, C): rows first, then columns.

    Pixel i becomes pixels 2i and 2i + 1, each 3/4 of it and 1/4 of its neighbour on that side; a pixel at the
    border is its own neighbour. Only sums and a power of two, so no compiler can change the last bit.
    """
    return _doubled(_doubled(x, 1), 2)


def _doubled(x: jax.Array, axis: int) -> jax.Array:
    size = x.shape[axis]

    def part(start: int, stop: int) -> jax.Array:
        return jax.lax.slice_in_dim(x, start, stop, axis=axis)

    before = jnp.concatenate([part(0, 1), part(0, size - 1)], axis)
    after = jnp.concatenate([part(1, size), part(size - 1, size)], axis)
    three = (x + x) + x
    pairs = jnp.stack([(three + before) * 0.25, (three + after) * 0.25], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
