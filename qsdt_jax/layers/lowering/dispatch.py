"""A convolution and its two gradients, each lowered in the way of the platform it is compiled for.

    CPU            `cpu`: one XLA convolution where it is good at it, else matrix products or shifted sums
    NVIDIA GPU     `gpu`: what tensor cores and cuDNN take without widening the operands
    others         `xla`: one `lax.conv_general_dilated`

Products of whole numbers are exact in each of them, as long as `Whole.sum_of` their terms stays below 2^31:
up to 2^24 in float32, above in int32, which is rounded to the result's type at the end. One exception: int32
sums of bytes, asked for as such, are those of a GPU's convolution and exact up to 2^24; `deploy.validity`
refuses programs with larger ones.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from qsdt_jax.core.exact import LARGEST_FLOAT32, LARGEST_INT32, Digits, Whole, largest_exact
from qsdt_jax.core.spikes import counts_of
from qsdt_jax.layers.lowering import cpu, gpu, xla
from qsdt_jax.layers.lowering.bytes import LARGEST_BYTE, in_bytes, joined
from qsdt_jax.layers.lowering.geometry import ConvGeometry, is_pointwise
from qsdt_jax.layers.lowering.kernels.digits import can_use_digits, digit_product

INT8 = Whole(left=128, right=128)
# What a product of default precision multiplies exactly on any accelerator: bfloat16 has 8 bits.
LARGEST_IN_DEFAULT = 256


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def convolve(
    x: jax.Array,
    kernel: jax.Array,
    geometry: ConvGeometry,
    dtype: DTypeLike,
    whole: Whole | None = None,
    stored: DTypeLike | None = None,
    codes: jax.Array | None = None,
) -> jax.Array:
    """Convolution of x (N, H, W, I) with kernel (kh, kw, I / groups, O).

    The result has `dtype`. Real operands are summed in it, with one exception: bfloat16 on a GPU, see `gpu`.
    Sums of whole numbers are exact. Operands of an integer type are whole by that.

    Args:
      x, kernel: floats of one type, or int8.
      geometry: stride, padding, groups.
      dtype: of the result; float32, float64, or int32 for whole numbers.
      whole: the largest sizes of both operands, which are whole numbers; None for real values.
      stored: type in which a GPU may write the result to memory, in training; None for `dtype`.
      codes: of x (`core.spikes`), which a GPU reads in its place.
    """
    if whole is None and jnp.issubdtype(x.dtype, jnp.integer):
        whole = INT8
    if whole is not None and jnp.issubdtype(dtype, jnp.floating):
        largest = whole.sum_of(math.prod(kernel.shape[:3]))
        if largest_exact(dtype) < largest <= LARGEST_INT32:
            return _in_int32(x, kernel, geometry, whole).astype(dtype)
    accumulate = jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else dtype
    # Accelerators round float32 operands by default, TPUs to bfloat16. A CPU does not.
    precision = lax.Precision.HIGHEST if whole is not None and whole.left > LARGEST_IN_DEFAULT else None

    def on_cpu(x, kernel):
        x, kernel = _widen(x, dtype), _widen(kernel, dtype)
        return cpu.convolve(x, kernel, geometry, accumulate).astype(dtype)

    def on_cuda(x, kernel):
        result = dtype if stored is None else stored
        if whole is not None and jnp.dtype(dtype) != jnp.float64:
            if codes is not None and codes.dtype == jnp.int8:
                return gpu.convolve_codes(codes, kernel, geometry, result, whole).astype(dtype)
            return gpu.convolve_whole(x, kernel, geometry, dtype, whole)
        return gpu.convolve(x, kernel, geometry, result, precision).astype(dtype)

    def on_rocm(x, kernel):
        # Not tried. Integer convolutions were unsupported there; 8-bit integers are exact in float32.
        if jnp.issubdtype(x.dtype, jnp.integer):
            x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
            return xla.convolve(x, kernel, geometry, jnp.float32).astype(dtype)
        return elsewhere(x, kernel)

    def elsewhere(x, kernel):
        return xla.convolve(x, kernel, geometry, accumulate, precision).astype(dtype)

    return lax.platform_dependent(x, kernel, cpu=on_cpu, cuda=on_cuda, rocm=on_rocm, default=elsewhere)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def convolve_digits(
    x: jax.Array, digits: Digits, kernel: jax.Array, geometry: ConvGeometry, right: int, portable: bool
) -> jax.Array:
    """Convolution of real x (N, H, W, I), whose digits are given, with whole numbers, the same in any order.

    Args:
      x: float32 or float64.
      digits: of x, with a unit for each image.
      kernel: (kh, kw, I / groups, O) whole numbers up to `right`, in x's dtype.
      geometry: stride, padding, groups.
      right: see `Whole`.
      portable: whether it is for programs that are exported, without kernels of this project.

    Returns:
      (N, H', W', O) in x's dtype.
    """
    whole = Whole(left=int(digits.base) // 2, right=right)

    def elsewhere(x, digits, kernel):
        return digits.joined([convolve(d, kernel, geometry, x.dtype, whole) for d in digits.digits])

    def on_cuda(x, digits, kernel):
        pixels = x[:, :: geometry.stride, :: geometry.stride]
        n, height, width, channels = pixels.shape
        rows, unit = pixels.reshape(n, -1, channels), digits.unit.reshape(n, 1)
        matrix = kernel[0, 0].astype(jnp.int8)
        y = digit_product(rows, unit, matrix, len(digits.digits), digits.base)
        return y.reshape(n, height, width, -1)

    pointwise = is_pointwise(kernel.shape, geometry) and not portable
    if pointwise and can_use_digits(x.dtype, x.shape[-1], digits.base):
        return lax.platform_dependent(x, digits, kernel, cuda=on_cuda, default=elsewhere)
    return elsewhere(x, digits, kernel)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def input_gradient(
    dy: jax.Array, kernel: jax.Array, x_shape: tuple[int, ...], geometry: ConvGeometry, dtype: DTypeLike
) -> jax.Array:
    """Gradient of `convolve` with respect to x, of shape x_shape, accumulated in `dtype` (but see `gpu`).

    dy and kernel are floats of one type, the operands of the product.
    """

    def on_cpu(dy, kernel):
        return cpu.input_gradient(_widen(dy, dtype), _widen(kernel, dtype), x_shape, geometry, dtype)

    def on_cuda(dy, kernel):
        return gpu.input_gradient(dy, kernel, x_shape, geometry, dtype)

    def elsewhere(dy, kernel):
        return xla.input_gradient(dy, kernel, x_shape, geometry, dtype)

    return lax.platform_dependent(dy, kernel, cpu=on_cpu, cuda=on_cuda, default=elsewhere)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def weight_gradient(
    x: jax.Array,
    dy: jax.Array,
    kernel_shape: tuple[int, ...],
    geometry: ConvGeometry,
    dtype: DTypeLike,
) -> jax.Array:
    """Gradient of `convolve` with respect to the kernel, of kernel_shape, accumulated in `dtype` (see `gpu`).

    dy is a float, the operand type of the product, and so is x, or int8: codes of spike counts.
    """

    def on_cpu(x, dy):
        x = _operand(x, dy.dtype)
        return cpu.weight_gradient(_widen(x, dtype), _widen(dy, dtype), kernel_shape, geometry, dtype)

    def on_cuda(x, dy):
        return gpu.weight_gradient(x, dy, kernel_shape, geometry, dtype)

    def elsewhere(x, dy):
        x = _operand(x, dy.dtype)
        return xla.weight_gradient(x, dy, kernel_shape, geometry, dtype)

    return lax.platform_dependent(x, dy, cpu=on_cpu, cuda=on_cuda, default=elsewhere)


def _in_int32(x: jax.Array, kernel: jax.Array, geometry: ConvGeometry, whole: Whole) -> jax.Array:
    """The product of whole numbers in int32, x in bytes; exact below 2^31.

    Convolutions on GPUs give their sums in float32, so each gets no more channels than float32 can add up.
    """
    kernel = kernel.astype(jnp.int8)
    byte = Whole(left=min(whole.left, LARGEST_BYTE), right=whole.right)
    taps, channels = math.prod(kernel.shape[:2]), kernel.shape[2]
    most = max(1, LARGEST_FLOAT32 // byte.sum_of(taps))

    def product(piece):
        if geometry.groups > 1 or channels <= most:  # A depthwise one adds up taps alone.
            return convolve(piece, kernel, geometry, jnp.int32)
        parts = (slice(start, start + most) for start in range(0, channels, most))
        sums = (convolve(piece[..., s], kernel[:, :, s], geometry, jnp.int32) for s in parts)
        return functools.reduce(jnp.add, sums)

    return joined([product(piece) for piece in in_bytes(x, whole.left)])


def _operand(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """x in `dtype`; of codes the counts."""
    return counts_of(x, dtype) if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(dtype)


def _widen(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """x in `dtype` if it is a narrower float.

    A CPU multiplies bfloat16 and float8 no faster than float32 (1.3x slower here), and widened operands
    leave no doubt about the type of a partial sum.
    """
    return x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(dtype)
