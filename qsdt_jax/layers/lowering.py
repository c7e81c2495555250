"""How a convolution becomes machine code: every choice that depends on the backend lives here.

A convolution and its two gradients, as plain functions on arrays (NHWC images, HWIO kernels). None of them
knows of quantisation. Each is lowered in one of two ways, chosen when the program is compiled, so that a
program exported from a CPU for other platforms takes their way:

    accelerators   one `lax.conv_general_dilated`
    CPU            the same where XLA is good at it, else matrix products or shifted sums

The ratios in the comments are plain convolution / strategy on two cores of a Xeon (Sapphire Rapids), float32.
"""

import contextlib
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class ConvGeometry:
    """Stride, symmetric zero padding (pixels) and number of channel groups of a 2-D convolution."""

    stride: int = 1
    padding: int = 0
    groups: int = 1


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def convolve(
    x: jax.Array,
    kernel: jax.Array,
    geometry: ConvGeometry,
    dtype: DTypeLike,
    precision: lax.Precision | None = None,
) -> jax.Array:
    """Convolution of x (N, H, W, I) with kernel (kh, kw, I / groups, O).

    Floats are accumulated in `dtype`, integers in int32; the result has `dtype`. `precision` is that of the
    operands on accelerators, which by default round float32 to fewer bits; a CPU does not.
    """

    def on_cpu(x, kernel):
        x, kernel = _widen(x, dtype), _widen(kernel, dtype)
        return _cpu_convolve(x, kernel, geometry, _accumulator(x, dtype)).astype(dtype)

    def on_gpu(x, kernel):
        # Integer convolutions: unsupported in some versions of XLA on GPU, wrong for groups in others.
        # 8-bit integers are exact in float32, even where it multiplies as TF32.
        if jnp.issubdtype(x.dtype, jnp.integer):
            x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
            return _plain_convolve(x, kernel, geometry, jnp.float32).astype(dtype)
        return elsewhere(x, kernel)

    def elsewhere(x, kernel):
        return _plain_convolve(x, kernel, geometry, _accumulator(x, dtype), precision).astype(dtype)

    return _by_platform(x, kernel, cpu=on_cpu, cuda=on_gpu, rocm=on_gpu, default=elsewhere)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def input_gradient(
    dy: jax.Array, kernel: jax.Array, x_shape: tuple[int, ...], geometry: ConvGeometry, dtype: DTypeLike
) -> jax.Array:
    """Gradient of `convolve` with respect to x, of shape x_shape, accumulated in `dtype`.

    dy and kernel are floats of one type, the operands of the product.
    """

    def on_cpu(dy, kernel):
        return _cpu_input_gradient(_widen(dy, dtype), _widen(kernel, dtype), x_shape, geometry, dtype)

    def elsewhere(dy, kernel):
        return _plain_input_gradient(dy, kernel, x_shape, geometry, dtype)

    return _by_platform(dy, kernel, cpu=on_cpu, default=elsewhere)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def weight_gradient(
    x: jax.Array,
    dy: jax.Array,
    kernel_shape: tuple[int, ...],
    geometry: ConvGeometry,
    dtype: DTypeLike,
) -> jax.Array:
    """Gradient of `convolve` with respect to the kernel, of kernel_shape, accumulated in `dtype`.

    x and dy are floats of one type, the operands of the product.
    """

    def on_cpu(x, dy):
        return _cpu_weight_gradient(_widen(x, dtype), _widen(dy, dtype), kernel_shape, geometry, dtype)

    def elsewhere(x, dy):
        return _plain_weight_gradient(x, dy, kernel_shape, geometry, dtype)

    return _by_platform(x, dy, cpu=on_cpu, default=elsewhere)


def integer_attention(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """q (k^T v) for each head, of int8 (N, L, C) -> int32 (N, L, C), no operand and no sum rounded."""

    def product(q, k, v, operand, accumulate):
        shape = (*q.shape[:2], heads, q.shape[2] // heads)
        q, k, v = (x.astype(operand).reshape(shape) for x in (q, k, v))
        precision = lax.Precision.HIGHEST
        kv = jnp.einsum("nlhc,nlhd->nhcd", k, v, precision=precision, preferred_element_type=accumulate)
        y = jnp.einsum("nlhc,nhcd->nlhd", q.astype(accumulate), kv, precision=precision)
        return y.reshape(*shape[:2], -1).astype(jnp.int32)

    # GPUs have no product of 32-bit integers; float32 is exact up to 2^24.
    on_gpu = functools.partial(product, operand=jnp.float32, accumulate=jnp.float32)
    elsewhere = functools.partial(product, operand=jnp.int8, accumulate=jnp.int32)
    return _by_platform(q, k, v, cuda=on_gpu, rocm=on_gpu, default=elsewhere)


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Inside, a CPU computes as an accelerator does: for what is compiled to be looked at, not to be run."""
    global _cpu_has_its_way
    jax.clear_caches()  # They do not know of the switch.
    _cpu_has_its_way = False
    try:
        yield
    finally:
        _cpu_has_its_way = True
        jax.clear_caches()


_cpu_has_its_way = True


def _by_platform(*operands: jax.Array, default: Callable, cpu: Callable | None = None, **others: Callable):
    """`lax.platform_dependent`, but for `as_on_accelerators`."""
    ways = {"cpu": cpu} if cpu is not None and _cpu_has_its_way else {}
    return lax.platform_dependent(*operands, default=default, **ways, **others)


def _accumulator(x: jax.Array, dtype: DTypeLike) -> DTypeLike:
    return jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else dtype


def _widen(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """x in `dtype` if it is a narrower float.

    A CPU multiplies bfloat16 and float8 no faster than float32 (1.3x slower here), and widened operands
    leave no doubt about the type of a partial sum.
    """
    return x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(dtype)


# --- One XLA convolution -------------------------------------------------------------------------------


def _plain_convolve(
    x, kernel, geometry: ConvGeometry, accumulate: DTypeLike, precision: lax.Precision | None = None
) -> jax.Array:
    p = geometry.padding
    return lax.conv_general_dilated(
        x,
        kernel,
        (geometry.stride, geometry.stride),
        ((p, p), (p, p)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
        precision=precision,
        preferred_element_type=accumulate,
    )


def _plain_input_gradient(dy, kernel, x_shape, geometry: ConvGeometry, dtype) -> jax.Array:
    """dx = conv(dilated dy, kernel turned by 180 degrees), the roles of I and O exchanged in each group."""
    kh, kw, per_group, out = kernel.shape
    groups = geometry.groups
    turned = kernel[::-1, ::-1].reshape(kh, kw, per_group, groups, out // groups)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(kh, kw, out // groups, groups * per_group)
    return lax.conv_general_dilated(
        dy,
        turned,
        (1, 1),
        _dilated_padding(dy.shape, kernel.shape, x_shape, geometry),
        lhs_dilation=(geometry.stride, geometry.stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=dtype,
    )


def _dilated_padding(dy_shape, kernel_shape, x_shape, geometry: ConvGeometry):
    """Padding of the dilated dy such that a correlation with the kernel has x's height and width.

    Negative where the padding of x exceeds the kernel or where the last rows of x are unused.
    """
    p, s = geometry.padding, geometry.stride
    return tuple(
        (k - 1 - p, size + p - 1 - (out - 1) * s)
        for k, size, out in zip(kernel_shape[:2], x_shape[1:3], dy_shape[1:3], strict=True)
    )


def _plain_weight_gradient(x, dy, kernel_shape, geometry: ConvGeometry, dtype) -> jax.Array:
    """dw = conv(x, dilated dy) with the batch as the contracted axis."""
    p, s = geometry.padding, geometry.stride
    padding = tuple(
        (p, k - 1 + (out - 1) * s + 1 - size - p)
        for k, size, out in zip(kernel_shape[:2], x.shape[1:3], dy.shape[1:3], strict=True)
    )
    return lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        padding,
        rhs_dilation=(s, s),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        batch_group_count=geometry.groups,
        preferred_element_type=dtype,
    )


# --- Strategies on CPU ---------------------------------------------------------------------------------

# Above this many taps a sum of shifted products takes long to compile.
_MOST_TAPS = 81
# Output pixels whose patches are multiplied at a time: 1-2 MB of patches, which stay in the cache.
_PATCH_ROWS = 1600
# Products summed in one fused loop by `_depthwise_weight_gradient`; half and twice are slower.
_TERMS = 32


def _is_depthwise(kernel_shape, geometry: ConvGeometry) -> bool:
    kh, kw, per_group, out = kernel_shape
    return per_group == 1 and geometry.groups == out > 1 and kh * kw <= _MOST_TAPS


def _is_pointwise(kernel_shape, geometry: ConvGeometry) -> bool:
    return kernel_shape[:2] == (1, 1) and geometry.groups == 1 and geometry.padding == 0


def _cpu_convolve(x, kernel, geometry: ConvGeometry, accumulate: DTypeLike) -> jax.Array:
    if _is_depthwise(kernel.shape, geometry):
        return _depthwise(_pad(x, geometry.padding), kernel, geometry.stride, accumulate)
    if _is_pointwise(kernel.shape, geometry):
        return _product(x[:, :: geometry.stride, :: geometry.stride], kernel[0, 0], accumulate)
    if kernel.shape[:2] == (1, 1) and geometry.stride == geometry.groups == 1:
        return _pad(_product(x, kernel[0, 0], accumulate), geometry.padding)
    few_channels = x.shape[-1] <= 4 and geometry.groups == 1
    if few_channels and not jnp.issubdtype(x.dtype, jnp.integer):
        return _patch_convolve(x, kernel, geometry)
    return _plain_convolve(x, kernel, geometry, accumulate)


def _cpu_input_gradient(dy, kernel, x_shape, geometry: ConvGeometry, dtype) -> jax.Array:
    if _is_depthwise(kernel.shape, geometry):
        rows, columns = _dilated_padding(dy.shape, kernel.shape, x_shape, geometry)
        gap = geometry.stride - 1
        dilated = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), (*rows, gap), (*columns, gap), (0, 0, 0)))
        # The barrier keeps XLA from computing the sum again in each reader: batch norm's gradient has three.
        return lax.optimization_barrier(_depthwise(dilated, kernel[::-1, ::-1], 1, dtype))
    if _is_pointwise(kernel.shape, geometry) and geometry.stride == 1:
        return _product(dy, kernel[0, 0].T, dtype)
    return _plain_input_gradient(dy, kernel, x_shape, geometry, dtype)


def _cpu_weight_gradient(x, dy, kernel_shape, geometry: ConvGeometry, dtype) -> jax.Array:
    _, _, inputs, outputs = kernel_shape
    if _is_depthwise(kernel_shape, geometry):
        return _depthwise_weight_gradient(x, dy, kernel_shape, geometry)
    if _is_pointwise(kernel_shape, geometry):
        pixels = x[:, :: geometry.stride, :: geometry.stride].reshape(-1, inputs)
        return (pixels.T @ dy.reshape(-1, outputs))[None, None]
    if geometry.groups == 1:
        return _patch_weight_gradient(x, dy, kernel_shape, geometry)
    return _plain_weight_gradient(x, dy, kernel_shape, geometry, dtype)


def _pad(x: jax.Array, width: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))


def _product(x: jax.Array, matrix: jax.Array, accumulate: DTypeLike) -> jax.Array:
    """A 1x1 convolution as one matrix product (1.2 to 2 times faster; its weight gradient 2 to 10)."""
    y = jnp.dot(x.reshape(-1, x.shape[-1]), matrix, preferred_element_type=accumulate)
    return y.reshape(*x.shape[:-1], -1)


def _depthwise(padded: jax.Array, kernel: jax.Array, stride: int, accumulate) -> jax.Array:
    """Depthwise convolution without padding as a sum of shifted products (20 times faster)."""
    kh, kw = kernel.shape[:2]
    height, width = padded.shape[1] - kh + 1, padded.shape[2] - kw + 1
    # The barrier keeps the padding out of the fused sum, which would test each tap for it.
    padded = lax.optimization_barrier(padded).astype(accumulate)
    taps = kernel[:, :, 0].astype(accumulate)
    shifted = (
        padded[:, i : i + height : stride, j : j + width : stride] * taps[i, j]
        for i in range(kh)
        for j in range(kw)
    )
    return functools.reduce(operator.add, shifted)


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
