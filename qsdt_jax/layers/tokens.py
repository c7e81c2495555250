"""Tokens and values of images that share one array with padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from qsdt_jax.inside import inside


def valid_tokens(sizes: jax.Array, stride: int, grid: tuple[int, int]) -> jax.Array:
    """Which tokens of each image are valid: those whose first pixel is inside.

    Args:
      sizes: (B, 2) height and width in pixels, at the top left of the array; at least 1 is assumed.
      stride: pixels of the image per token.
      grid: rows and columns of tokens.

    Returns:
      (B, rows, columns) booleans.
    """
    return inside(jnp.maximum(sizes, 1), grid, stride)


def valid_places(
    sizes: jax.Array, pixels: tuple[int, ...], timesteps: int, shape: tuple[int, ...]
) -> jax.Array:
    """Which places of a value of the network are of the image, by `valid_tokens` at the value's stride.

    Args:
      sizes: (B, 2) height and width in pixels.
      pixels: height and width of the images with their padding.
      timesteps: T.
      shape: of the value, (B * T, h, w, C) or, of tokens, (B * T, L, C).

    Returns:
      Booleans (B * T, h, w, 1) or (B * T, L, 1).
    """
    height, width = pixels
    if len(shape) == 3:
        stride = math.isqrt(height * width // shape[1])
        grid = height // stride, width // stride
    else:
        stride, grid = height // shape[1], (shape[1], shape[2])
    valid = jnp.repeat(valid_tokens(sizes, stride, grid), timesteps, axis=0)
    return valid.reshape(*shape[:-1], 1)


def factors_of_counts(scale: float, reference: int, tokens: int, dtype: DTypeLike) -> np.ndarray:
    """The factor of an attention over N tokens, for each N from 0 to `tokens`: scale * (reference / N).

    k^T v is a sum over the tokens, so its size grows with their number; this makes it what it is at
    `reference` tokens. A table, computed here, since not every device divides with correct rounding.

    Args:
      scale: at `reference` tokens.
      reference: token count that the scale is meant for; 0 for the scale itself at any count.
      tokens: largest count.
      dtype: of the arithmetic, rounded after each operation.

    Returns:
      (tokens + 1,); that of N = 0, which no image has, is that of 1.
    """
    real = np.dtype(dtype).type
    if not reference:
        return np.full(tokens + 1, scale, real)
    ratios = real(reference) / np.maximum(np.arange(tokens + 1), 1).astype(real)
    return (real(scale) * ratios).astype(real)
