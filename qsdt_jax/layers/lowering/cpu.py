"""Strategies on CPUs: matrix products, shifted sums and products of patches, where XLA's convolution is slow.

The ratios in the comments are plain convolution / strategy on two cores of a Xeon (Sapphire Rapids), float32.
A 1x1 convolution as a matrix product is 1.2 to 2 times faster, its weight gradient 2 to 10; a depthwise one
as a sum of shifted products 20 times.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from qsdt_jax.layers.lowering import xla
from qsdt_jax.layers.lowering.geometry import ConvGeometry, is_depthwise, is_pointwise
from qsdt_jax.layers.lowering.rewritten import depthwise, depthwise_input_gradient, pad, pointwise

# Output pixels whose patches are multiplied at a time: 1-2 MB of patches, which stay in the cache.
_PATCH_ROWS = 1600
# Products summed in one fused loop by `_depthwise_weight_gradient`; half and twice are slower.
_TERMS = 32


def convolve(x, kernel, geometry: ConvGeometry, accumulate: DTypeLike) -> jax.Array:
    if is_depthwise(kernel.shape, geometry):
        return depthwise(pad(x, geometry.padding), kernel, geometry.stride, accumulate)
    if is_pointwise(kernel.shape, geometry):
        return pointwise(x[:, :: geometry.stride, :: geometry.stride], kernel[0, 0], accumulate)
    if kernel.shape[:2] == (1, 1) and geometry.stride == geometry.groups == 1:
        return pad(pointwise(x, kernel[0, 0], accumulate), geometry.padding)
    few_channels = x.shape[-1] <= 4 and geometry.groups == 1
    if few_channels and not jnp.issubdtype(x.dtype, jnp.integer):
        return _patch_convolve(x, kernel, geometry)
    return xla.convolve(x, kernel, geometry, accumulate)


def input_gradient(dy, kernel, x_shape, geometry: ConvGeometry, dtype) -> jax.Array:
    if is_depthwise(kernel.shape, geometry):
        return depthwise_input_gradient(dy, kernel, x_shape, geometry, dtype, dtype)
    if is_pointwise(kernel.shape, geometry) and geometry.stride == 1:
        return pointwise(dy, kernel[0, 0].T, dtype)
    return xla.input_gradient(dy, kernel, x_shape, geometry, dtype)


def weight_gradient(x, dy, kernel_shape, geometry: ConvGeometry, dtype) -> jax.Array:
    _, _, inputs, outputs = kernel_shape
    if is_depthwise(kernel_shape, geometry):
        return _depthwise_weight_gradient(x, dy, kernel_shape, geometry)
    if is_pointwise(kernel_shape, geometry):
        pixels = x[:, :: geometry.stride, :: geometry.stride].reshape(-1, inputs)
        return (pixels.T @ dy.reshape(-1, outputs))[None, None]
    if geometry.groups == 1:
        return _patch_weight_gradient(x, dy, kernel_shape, geometry)
    return xla.weight_gradient(x, dy, kernel_shape, geometry, dtype)


def _depthwise_weight_gradient(x, dy, kernel_shape, geometry: ConvGeometry) -> jax.Array:
    """Weight gradient of a depthwise convolution, a short stretch of output pixels at a time.

    Each output pixel adds dy[pixel] * (the kh x kw patch of x it sees) to the whole gradient, which is small
    enough for the innermost cache; a stretch is one fused sum (20 to 50 times faster).
    """
    (kh, kw, _, channels), s = kernel_shape, geometry.stride
    columns = _block(dy.shape[2], _TERMS)
    rows = min(dy.shape[1], _TERMS // columns)

    def stretch(patch, dy):
        return sum(
            patch[r * s : r * s + kh, c * s : c * s + kw] * dy[r, c]
            for r in range(rows)
            for c in range(columns)
        )

    total = _sum_over_blocks(stretch, x, dy, (kh, kw), geometry, (rows, columns), (kh, kw, channels))
    return total[:, :, None, :]


def _patch_convolve(x, kernel, geometry: ConvGeometry) -> jax.Array:
    """Convolution as products of patches with the kernel, for images of few channels (2.7 times faster)."""
    kh, kw, _, outputs = kernel.shape
    n, height, width = x.shape[0], *_output_size(x.shape, kernel.shape, geometry)
    rows = _block(height, max(1, _PATCH_ROWS // width))
    x, blocks = _pad_to_blocks(x, (kh, kw), (height, width), (rows, width), geometry)
    matrix = kernel.reshape(-1, outputs)

    def block(position):
        patch = _block_of_x(x, position, (kh, kw), (rows, width), geometry.stride)
        return _patches(patch, (kh, kw), (rows, width), geometry.stride) @ matrix

    y = lax.map(lambda t: block((t // blocks[0], t % blocks[0], 0)), jnp.arange(n * blocks[0]))
    return y.reshape(n, blocks[0] * rows, width, outputs)[:, :height]


def _patch_weight_gradient(x, dy, kernel_shape, geometry: ConvGeometry) -> jax.Array:
    """Weight gradient of a dense convolution as products of patches, a block of rows at a time.

    The patches are kh * kw times what they are taken from: cheap for x where it has fewer channels than dy.
    Else, at stride 1, x and dy exchange roles: dw turned by 180 degrees is the weight gradient of the
    convolution that takes dy to x (2 to 3.5 times faster; taking all patches at once 1.2 to 2).
    """
    (kh, kw, inputs, outputs), s = kernel_shape, geometry.stride
    p = geometry.padding
    if inputs > outputs and s == 1 and kh == kw and p < kh:
        swapped = ConvGeometry(1, kh - 1 - p, 1)
        turned = _patch_weight_gradient(dy, x, (kh, kw, outputs, inputs), swapped)
        return turned[::-1, ::-1].swapaxes(2, 3)
    height, width = dy.shape[1:3]
    rows = _block(height, max(1, _PATCH_ROWS // width))

    def block(patch, dy):
        return _patches(patch, (kh, kw), (rows, width), s).T @ dy.reshape(-1, outputs)

    total = _sum_over_blocks(block, x, dy, (kh, kw), geometry, (rows, width), (kh * kw * inputs, outputs))
    return total.reshape(kernel_shape)


def _output_size(x_shape, kernel_shape, geometry: ConvGeometry) -> tuple[int, int]:
    height, width = (
        (size + 2 * geometry.padding - k) // geometry.stride + 1
        for size, k in zip(x_shape[1:3], kernel_shape[:2], strict=True)
    )
    return height, width


def _block(size: int, largest: int) -> int:
    """Length of equal blocks of at most `largest` that cover `size` with the least overhang."""
    return math.ceil(size / math.ceil(size / largest))


def _patches(x: jax.Array, taps, size, stride: int) -> jax.Array:
    """(rows * columns, kh * kw * I) patches that the outputs of a block see in x (H, W, I)."""
    rows, columns = ((length - 1) * stride + 1 for length in size)
    shifts = [
        x[i : i + rows : stride, j : j + columns : stride] for i in range(taps[0]) for j in range(taps[1])
    ]
    return jnp.concatenate(shifts, axis=-1).reshape(math.prod(size), -1)


def _pad_to_blocks(x, taps, size, block, geometry: ConvGeometry):
    """x with the padding of the convolution, and with what the last block needs; the number of blocks.

    Rows and columns of x that no output sees are cut off.
    """
    p, s = geometry.padding, geometry.stride
    blocks = tuple(math.ceil(a / b) for a, b in zip(size, block, strict=True))
    needed = ((m * b - 1) * s + k for m, b, k in zip(blocks, block, taps, strict=True))
    rows, columns = ((p, n - p - have, 0) for n, have in zip(needed, x.shape[1:3], strict=True))
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
    return padded, blocks


def _block_of_x(x, position, taps, block, stride: int) -> jax.Array:
    """The part of one padded image that the block at position (image, row, column of blocks) sees."""
    n, i, j = position
    rows, columns = ((b - 1) * stride + k for b, k in zip(block, taps, strict=True))
    start = (n, i * block[0] * stride, j * block[1] * stride, 0)
    return lax.dynamic_slice(x, start, (1, rows, columns, x.shape[-1]))[0]


def _sum_over_blocks(term: Callable, x, dy, taps, geometry, block, shape) -> jax.Array:
    """Sum of term(x of a block, dy of the block) over all images and blocks of output pixels."""
    n, height, width, outputs = dy.shape
    x, blocks = _pad_to_blocks(x, taps, (height, width), block, geometry)
    dy = jnp.pad(
        dy,
        ((0, 0), (0, blocks[0] * block[0] - height), (0, blocks[1] * block[1] - width), (0, 0)),
    )

    def add(t, total):
        image, i, j = t // (blocks[0] * blocks[1]), t // blocks[1] % blocks[0], t % blocks[1]
        part = lax.dynamic_slice(dy, (image, i * block[0], j * block[1], 0), (1, *block, outputs))[0]
        return total + term(_block_of_x(x, (image, i, j), taps, block, geometry.stride), part)

    return lax.fori_loop(0, n * blocks[0] * blocks[1], add, jnp.zeros(shape, dy.dtype))
