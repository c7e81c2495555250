"""Strategies on NVIDIA GPUs: operands that the tensor cores take as they are.

XLA decides without a word what becomes of a convolution (seen in what jax 0.10.2 compiles for an H100;
`docs/benchmarks.md` has the counts). cuDNN multiplies int8 x int8 to float32 and bfloat16 x bfloat16 to
bfloat16. Asked for bfloat16 operands and a float32 result, XLA converts both operands and writes them out as
float32. A matrix product has no such limits: it sums operands of any type in float32, and their conversion is
fused into it. So these are the choices, by kernel and operands:

    1x1                        a matrix product with float32 sums. Whole numbers lie in memory as int8 and are
                               widened to bfloat16 inside; real operands are bfloat16.
    depthwise, forward and     shifted sums in float32. cuDNN refuses int8 with groups, and has no float32
    with respect to x          result of bfloat16.
    other, whole operands      int8 x int8 -> float32, exact: cuDNN adds up in int32 and converts at the end.
    other, real operands       bfloat16 x bfloat16 -> bfloat16: cuDNN adds up in float32, rounds the result.
    depthwise weights          the same. A result is a sum over all pixels.

A step of a training is bound by the memory that it moves, so bfloat16 programs write what a batch norm or a
neuron reads as bfloat16: dense and 1x1 products of a training and all gradients of x. The sums are float32
and, of whole numbers, exact; they are rounded once, at their end. For the same reason dense convolutions of
spikes take bfloat16 in a training, where int8 x int8 has a result of four bytes. Evaluation rounds no sum of
whole numbers. 1x1 products of whole numbers that int16 holds (of 4-bit weights and D = 4 those of up to 1,023
channels) are written as int16, in training and evaluation, and rounded by neither.

What that does to a gradient: operands rounded to bfloat16 are off by up to 2^-8 of their size, on every
platform. A rounded result is off by up to 2^-8 of its size once more, after the sum. So the gradient of an
array has an error of 0.0017 times the root of the number of its roundings (2-norm): one to three, where other
platforms have one or two. That of a step size sums up a rounded weight gradient, where it can cancel. Its
error was up to 0.004 (`tests/layers/test_gradient_rounding.py`, against float64). float16 has too small a
range for such results without a loss scale; its products stay what XLA makes of them.

Whole numbers go as int8 whatever operand type is asked for. Beyond 127 they go as several int8 pieces, or up
to 2048, which are the digits of exact evaluation, as float16 into matrix products and shifted sums. float8 is
no way for them: Hopper adds up its products with about 14 bits. In float32 programs they go as int8 too: they
are the same numbers there. Where images have fewer pixels than a dense kernel, as in the last stage of the
digits, XLA swaps image and kernel and multiplies both as float32, which is exact too, and moves little.

XLA multiplies the real products of float32 programs as TF32 (11 bits) by default, which
`jax_default_matmul_precision` changes. float64 stays float64.

A NaN that is cast to int8 becomes some count, so the loss may stay finite. The membrane that it came from
makes the gradients NaN in the same step, and the training loop looks at these too.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from qsdt_jax.core.exact import Whole
from qsdt_jax.core.spikes import counts_of
from qsdt_jax.layers.lowering import xla
from qsdt_jax.layers.lowering.bytes import LARGEST_BYTE, LARGEST_HALF, in_bytes, joined
from qsdt_jax.layers.lowering.geometry import ConvGeometry, is_depthwise, is_pointwise
from qsdt_jax.layers.lowering.rewritten import depthwise, depthwise_input_gradient, pad

LARGEST_INT16 = 2**15 - 1


def convolve_whole(
    x: jax.Array, kernel: jax.Array, geometry: ConvGeometry, dtype: DTypeLike, whole: Whole
) -> jax.Array:
    """The convolution of whole numbers in `dtype`, float32 or int32: exact while sums stay below 2^24."""
    small = is_pointwise(kernel.shape, geometry) or is_depthwise(kernel.shape, geometry)
    beyond_bytes = x.dtype != jnp.int8 and LARGEST_BYTE < whole.left <= LARGEST_HALF
    if small and beyond_bytes and jnp.issubdtype(dtype, jnp.floating):
        return convolve(x.astype(jnp.float16), kernel.astype(jnp.float16), geometry, dtype, None)
    kernel = kernel.astype(jnp.int8)
    pieces = in_bytes(x, whole.left)
    left = whole.left if len(pieces) == 1 else LARGEST_BYTE
    largest = Whole(left=left, right=whole.right).sum_of(math.prod(kernel.shape[:3]))
    return joined([_convolve_bytes(piece, kernel, geometry, dtype, largest) for piece in pieces])


def convolve_codes(
    codes: jax.Array, kernel: jax.Array, geometry: ConvGeometry, dtype: DTypeLike, whole: Whole
) -> jax.Array:
    """The convolution of spike counts, read from their codes (int8), with whole numbers, as in training.

    The sums are rounded to `dtype`, once, but for those that lie in memory as int16 and those of depthwise
    kernels, which their reader computes.
    """
    kernel = kernel.astype(jnp.int8)
    if is_depthwise(kernel.shape, geometry):
        counts = functools.partial(counts_of, dtype=jnp.float32)
        return depthwise(pad(codes, geometry.padding), kernel, geometry.stride, jnp.float32, counts)
    if is_pointwise(kernel.shape, geometry):
        pixels = codes[:, :: geometry.stride, :: geometry.stride]
        rows, matrix = _apart(_rows(pixels), kernel[0, 0])
        y = _whole_product(counts_of(rows, jnp.bfloat16), matrix, dtype, whole.sum_of(kernel.shape[2]))
        return y.reshape(*pixels.shape[:-1], -1)
    if dtype == jnp.bfloat16:
        return xla.convolve(counts_of(codes, dtype), kernel.astype(dtype), geometry, dtype)
    return xla.convolve(counts_of(codes, jnp.float32).astype(jnp.int8), kernel, geometry, jnp.float32)


def convolve(
    x: jax.Array, kernel: jax.Array, geometry: ConvGeometry, dtype: DTypeLike, precision: lax.Precision | None
) -> jax.Array:
    """The convolution of real values in `dtype`; of depthwise kernels the sums as they are."""
    if is_depthwise(kernel.shape, geometry):
        accumulate = jnp.promote_types(dtype, jnp.float32)
        return depthwise(pad(x, geometry.padding), kernel, geometry.stride, accumulate)
    if is_pointwise(kernel.shape, geometry):
        return _pointwise(x[:, :: geometry.stride, :: geometry.stride], kernel[0, 0], dtype)
    return xla.convolve(x, kernel, geometry, _result(x, dtype), precision).astype(dtype)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, x_shape: tuple[int, ...], geometry: ConvGeometry, dtype: DTypeLike
) -> jax.Array:
    """The gradient of a convolution with respect to x, in `dtype`."""
    if is_depthwise(kernel.shape, geometry):
        return depthwise_input_gradient(dy, kernel, x_shape, geometry, dtype, _result(dy, dtype)).astype(
            dtype
        )
    if is_pointwise(kernel.shape, geometry) and geometry.stride == 1:
        return _pointwise(dy, kernel[0, 0].T, _result(dy, dtype)).astype(dtype)
    return xla.input_gradient(dy, kernel, x_shape, geometry, _result(dy, dtype)).astype(dtype)


def weight_gradient(
    x: jax.Array,
    dy: jax.Array,
    kernel_shape: tuple[int, ...],
    geometry: ConvGeometry,
    dtype: DTypeLike,
) -> jax.Array:
    """The gradient of a convolution with respect to its kernel, in `dtype`."""
    codes = jnp.issubdtype(x.dtype, jnp.integer)
    if is_pointwise(kernel_shape, geometry):
        pixels = _rows(x[:, :: geometry.stride, :: geometry.stride])
        pixels = counts_of(pixels, dy.dtype) if codes else pixels
        return jnp.einsum("ni,no->io", pixels, _rows(dy), preferred_element_type=dtype)[None, None]
    x = counts_of(x, dy.dtype) if codes else x
    return xla.weight_gradient(x, dy, kernel_shape, geometry, _result(dy, dtype)).astype(dtype)


def _convolve_bytes(
    x: jax.Array, kernel: jax.Array, geometry: ConvGeometry, dtype: DTypeLike, largest: int
) -> jax.Array:
    """The convolution of int8 operands in `dtype`, whose sums do not exceed `largest`."""
    if is_depthwise(kernel.shape, geometry):
        y = depthwise(pad(x, geometry.padding), kernel, geometry.stride, jnp.float32)
    elif is_pointwise(kernel.shape, geometry):
        pixels = x[:, :: geometry.stride, :: geometry.stride]
        rows, matrix = _apart(_rows(pixels), kernel[0, 0])
        if jnp.issubdtype(dtype, jnp.integer):  # Exact beyond 2^24.
            y = _product(rows, matrix, dtype)
        else:
            y = _whole_product(rows.astype(jnp.bfloat16), matrix, dtype, largest)
        y = y.reshape(*pixels.shape[:-1], -1)
    elif geometry.groups > 1:
        # As SpikingResformer has. cuDNN refuses int8 with groups; it is exact in float32, even as TF32.
        y = xla.convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), geometry, jnp.float32)
    else:
        y = xla.convolve(x, kernel, geometry, jnp.float32)
    return y.astype(dtype)


def _whole_product(rows: jax.Array, matrix: jax.Array, dtype: DTypeLike, largest: int) -> jax.Array:
    """A product of whole numbers, rows in bfloat16: written in int16 and given in float32, or in `dtype`."""
    if largest > LARGEST_INT16:
        return _product(rows, matrix.astype(rows.dtype), dtype)
    y = jnp.dot(rows, matrix.astype(rows.dtype), preferred_element_type=jnp.float32)
    return lax.optimization_barrier(y.astype(jnp.int16)).astype(jnp.float32)


def _pointwise(x: jax.Array, matrix: jax.Array, dtype: DTypeLike) -> jax.Array:
    """(..., I) times (I, O) of real values, in `dtype`."""
    return _product(_rows(x), matrix, dtype).reshape(*x.shape[:-1], -1)


def _product(rows: jax.Array, matrix: jax.Array, dtype: DTypeLike) -> jax.Array:
    """A matrix product that is written to memory in `dtype`."""
    y = jnp.dot(rows, matrix, preferred_element_type=dtype)
    # Without the barrier XLA takes what widens y into the kernel, which then writes it as float32.
    return lax.optimization_barrier(y) if dtype == jnp.bfloat16 else y


def _rows(x: jax.Array) -> jax.Array:
    """The pixels of x as rows of a matrix, as they lie in memory.

    Without the barrier, or with the rows put together behind it, XLA takes what computes x into the kernel of
    the product, and can fail to compile that: "Couldn't find output tile sizes" behind attention.
    """
    return lax.optimization_barrier(x.reshape(-1, x.shape[-1]))


def _apart(rows: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The operands of a product that XLA does not join with others of the same rows, as those of q, k and v.

    What it joins it writes as float32, and cuts it apart by kernels of their own.
    """
    return lax.optimization_barrier((rows, matrix))


def _result(operand: jax.Array, dtype: DTypeLike) -> DTypeLike:
    """Type of the result of a cuDNN convolution of real operands: bfloat16 has no other."""
    return jnp.bfloat16 if operand.dtype == jnp.bfloat16 else dtype
