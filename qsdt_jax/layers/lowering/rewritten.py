"""Convolutions that are better no convolutions: 1x1 as one matrix product, depthwise as shifted sums."""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from qsdt_jax.layers.lowering.geometry import ConvGeometry, dilated_padding


def pad(x: jax.Array, width: int) -> jax.Array:
    """x (N, H, W, C) with `width` pixels of zeros around each image."""
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))


def pointwise(x: jax.Array, matrix: jax.Array, accumulate: DTypeLike) -> jax.Array:
    """(..., I) times (I, O), the sums and the result in `accumulate`."""
    y = jnp.dot(x.reshape(-1, x.shape[-1]), matrix, preferred_element_type=accumulate)
    return y.reshape(*x.shape[:-1], -1)


def depthwise(
    padded: jax.Array,
    kernel: jax.Array,
    stride: int,
    accumulate: DTypeLike,
    read: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Depthwise convolution without padding as a sum of shifted products, multiplied in `accumulate`.

    `read` makes values of `accumulate` out of what lies in memory, where that is no type conversion.
    """
    kh, kw = kernel.shape[:2]
    height, width = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
    # The barrier keeps the padding out of the fused sum, which would test each tap for it.
    padded = lax.optimization_barrier(padded)
    padded = padded.astype(accumulate) if read is None else read(padded)
    taps = kernel[:, :, 0].astype(accumulate)
    shifted = (
        padded[:, i : i + height : stride, j : j + width : stride] * taps[i, j]
        for i in range(kh)
        for j in range(kw)
    )
    return functools.reduce(operator.add, shifted)


def depthwise_input_gradient(
    dy: jax.Array,
    kernel: jax.Array,
    x_shape: tuple[int, ...],
    geometry: ConvGeometry,
    accumulate: DTypeLike,
    result: DTypeLike,
) -> jax.Array:
    """The gradient of `depthwise` with respect to x before its padding, of shape x_shape, in `result`."""
    rows, columns = dilated_padding(dy.shape, kernel.shape, x_shape, geometry)
    gap = geometry.stride - 1
    dilated = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), (*rows, gap), (*columns, gap), (0, 0, 0)))
    # The barrier keeps XLA from computing the sum again in each reader: batch norm's gradient has three.
    return lax.optimization_barrier(depthwise(dilated, kernel[::-1, ::-1], 1, accumulate).astype(result))
