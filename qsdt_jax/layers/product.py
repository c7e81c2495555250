"""The exact-integer product: multiply integers, then scale once per output channel.

    y = conv(x, w_int) * scale          (this project; "Exactness")

Where x are spike counts, both operands are small integers: exact in float32, bfloat16, float8_e4m3 and
int8. Their sums are at most D * 2^(b-1) times the number of terms. Up to 2^24 they are exact in float32,
above that they are added up in int32 (`Whole`). So y does not depend on the operand type, the order of
summation, the batch size or the number of devices. (In a training in bfloat16 a GPU rounds some of these sums
when it writes them, see `lowering.gpu`; they still depend on nothing else.)

Where x is real, training multiplies and accumulates as any network does. Evaluation, which has to agree with
the deployed network to the bit, cuts x into digits, short whole numbers again (`exact_convolution`). Float
weights of spikes are cut in the same way (`exact_selection`).
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from qsdt_jax.core.exact import Digits, Whole, is_narrow, to_digits
from qsdt_jax.layers import lowering
from qsdt_jax.layers.lowering import ConvGeometry

DIGIT_BITS = 7  # Digits of weights are -64 to 64.


def scaled_convolution(
    x: jax.Array,
    integers: jax.Array,
    scale: jax.Array,
    geometry: ConvGeometry,
    operand_dtype: DTypeLike,
    gradient_dtype: DTypeLike,
    whole: Whole | None = None,
    stored: DTypeLike | None = None,
    codes: jax.Array | None = None,
) -> jax.Array:
    """conv(x, integers) * scale.

    Args:
      x: (N, H, W, I) spike counts, which are not negative, or real values, in the dtype of the result.
      integers: (kh, kw, I / groups, O) weights on their integer grid.
      scale: (O,) positive.
      geometry: stride, padding, groups.
      operand_dtype: type in which x and integers are multiplied.
      gradient_dtype: operand type of the two products of the backward pass.
      whole: sizes of x and integers where both are whole numbers, whose sums shall be exact; else None.
      stored: narrower type to which a GPU may round conv(x, integers), in training; None for x's.
      codes: of counts x (`core.spikes`): what the backward pass keeps of them if `gradient_dtype` is narrow.

    Returns:
      (N, H', W', O) in x's dtype.
    """
    y = lowering.convolve(
        x.astype(operand_dtype), integers.astype(operand_dtype), geometry, x.dtype, whole, stored, codes
    )
    return y * scale


def _forward(x, integers, scale, geometry, operand_dtype, gradient_dtype, whole, stored, codes):
    y = scaled_convolution(x, integers, scale, geometry, operand_dtype, gradient_dtype, whole, stored, codes)
    return y, (_kept(x, operand_dtype, gradient_dtype, whole, codes), integers, scale)


def _kept(x, operand_dtype: DTypeLike, gradient_dtype: DTypeLike, whole: Whole | None, codes):
    """x as the backward pass keeps it: of counts a byte, in programs that multiply in narrow types."""
    if is_narrow(gradient_dtype) and whole is not None and whole.left <= jnp.iinfo(jnp.int8).max:
        return x.astype(jnp.int8) if codes is None else codes
    return x.astype(min(gradient_dtype, operand_dtype, key=lambda dtype: jnp.dtype(dtype).itemsize))


def _backward(geometry, operand_dtype, gradient_dtype, whole, stored, residuals, dy):
    """Gradients of x, the integers n and the scale, with z = conv(x, n) and y = z * scale.

    dL/dz = dy * scale, and a convolution is linear in x and in n:
    dL/dx = conv^T(dL/dz, n)  and  dL/dn = the correlation of x with dL/dz.
    dL/dscale = sum(dy * z) over images and pixels. z is linear in n, so  sum(dL/dz * z) = sum(dL/dn * n),
    which gives  dL/dscale = sum(dL/dn * n) / scale  from an array of the kernel's size; z is not kept.
    """
    x, integers, scale = residuals
    real = dy.dtype
    dz = (dy * scale).astype(gradient_dtype)
    grad_x = lowering.input_gradient(dz, integers.astype(gradient_dtype), x.shape, geometry, real)
    x = x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(gradient_dtype)
    grad_integers = lowering.weight_gradient(x, dz, integers.shape, geometry, real).astype(integers.dtype)
    grad_scale = jnp.sum(integers * grad_integers, axis=(0, 1, 2)) / scale
    return grad_x, grad_integers, grad_scale.astype(scale.dtype), None


# Not as a decorator, under which type checkers lose the signature.
scaled_convolution = jax.custom_vjp(scaled_convolution, nondiff_argnums=(3, 4, 5, 6, 7))
scaled_convolution.defvjp(_forward, _backward)


def exact_convolution(
    x: jax.Array, integers: jax.Array, geometry: ConvGeometry, bits: int, portable: bool = False
) -> jax.Array:
    """conv(x, integers) of real x, the same in any order of summation.

    x is rounded to fixed point with a unit for each image (23 bits below the largest value of a float32 image
    and the sign) and cut into digits, whose sums with the weights are exact; one rounding joins them again.

    Args:
      x: (N, H, W, I) real values.
      integers: (kh, kw, I / groups, O) weights on their integer grid, in x's dtype.
      geometry: stride, padding, groups.
      bits: of the weights, 1 to 8.
      portable: for programs that are exported, which hold no kernel of `lowering.kernels`.

    Returns:
      (N, H', W', O) in x's dtype.
    """
    digits = to_digits(x, (1, 2, 3), terms=math.prod(integers.shape[:3]), largest=2 ** (bits - 1))
    return lowering.convolve_digits(x, digits, integers, geometry, 2 ** (bits - 1), portable)


def _exact_forward(x, integers, geometry, bits, portable):
    return exact_convolution(x, integers, geometry, bits, portable), (x, integers)


def _exact_backward(geometry, bits, portable, residuals, dy):
    """Gradients of x and the integers n, with y = conv(x, n).

    The digits of x add up to x but for half a unit, so they are taken for x; rounding passes its gradient on.
    A convolution is linear in both:  dL/dx = conv^T(dy, n),  dL/dn = the correlation of x with dy.
    """
    x, integers = residuals
    return (
        lowering.input_gradient(dy, integers, x.shape, geometry, dy.dtype),
        lowering.weight_gradient(x, dy, integers.shape, geometry, dy.dtype),
    )


exact_convolution = jax.custom_vjp(exact_convolution, nondiff_argnums=(2, 3, 4))
exact_convolution.defvjp(_exact_forward, _exact_backward)


def kernel_digits(kernel: jax.Array, levels: int) -> Digits:
    """Float weights of counts up to `levels` as digits of 7 bits, which int8 holds, or less.

    The unit is that of the largest weight of an output channel. Of a float32 kernel four digits of 7 bits
    keep all bits of weights of at least 1/8 of that, and of smaller ones those above 2^-27 of it.

    Args:
      kernel: (kh, kw, I / groups, O).
      levels: D.
    """
    terms = math.prod(kernel.shape[:3])
    return to_digits(kernel, (0, 1, 2), terms=terms, largest=levels, widest=DIGIT_BITS)


def exact_selection(counts: jax.Array, kernel: jax.Array, geometry: ConvGeometry, levels: int) -> jax.Array:
    """conv(counts, kernel) of float weights, the same in any order of summation.

    Weights are cut into digits, whose sums are exact; a rounding for each digit joins them again.

    Args:
      counts: (N, H, W, I) spike counts 0..D, in the kernel's dtype.
      kernel: (kh, kw, I / groups, O) float weights.
      geometry: stride, padding, groups.
      levels: D.

    Returns:
      (N, H', W', O) in that dtype.
    """
    digits = kernel_digits(kernel, levels)
    whole = Whole(left=levels, right=int(digits.base) // 2)
    return digits.joined([lowering.convolve(counts, d, geometry, kernel.dtype, whole) for d in digits.digits])


def _selection_forward(counts, kernel, geometry, levels):
    return exact_selection(counts, kernel, geometry, levels), (counts, kernel)


def _selection_backward(geometry, levels, residuals, dy):
    """As those of `exact_convolution`: the digits add up to the weights, but for half a unit."""
    return _exact_backward(geometry, None, None, residuals, dy)


exact_selection = jax.custom_vjp(exact_selection, nondiff_argnums=(2, 3))
exact_selection.defvjp(_selection_forward, _selection_backward)
