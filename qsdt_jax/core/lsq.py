"""LSQ: weights on a signed b-bit grid with a learned step size per output channel.

(Esser et al., "Learned step size quantization", ICLR 2020, as the published code applies it.)

    w_int = round_half_even(clip(w / alpha, Qn, Qp)),   Qn = -2^(b-1), Qp = 2^(b-1) - 1,   w_q = alpha * w_int
    d w_q / d w     = 1 where Qn <= w / alpha <= Qp, else 0
    d w_q / d alpha = g * (w_int - w / alpha inside; Qn or Qp outside),   g = 1 / sqrt(numel(w) * Qp)

Here the quantizer returns w_int and alpha apart, because the layers multiply integers first and scale once
after ("Exactness"). The gradients above come out of the chain rule over that pair.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from qsdt_jax.core.exact import exact_mean

# A step size that the optimiser drives to zero or below is used as this value instead, and still receives
# its gradient, so it can recover.
SMALLEST_STEP_SIZE = 2.0**-20


class QuantizedWeight(struct.PyTreeNode):
    """Weights as integers and one scale per output channel: w_q = integers * scale.

    Attributes:
      integers: (..., O) whole numbers in the dtype of the weights.
      scale: (O,) positive.
    """

    integers: jax.Array
    scale: jax.Array


def weight_range(bits: int) -> tuple[int, int]:
    """The grid (Qn, Qp) of b-bit weights: (-1, 1) for b = 1, else (-2^(b-1), 2^(b-1) - 1).

    Raises:
      ValueError: bits is not in 1..8.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"weights have 1 to 8 bits (32 for float), got {bits}")
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def initial_step_size(w: jax.Array, bits: int) -> jax.Array:
    """alpha = 2 mean|w| / sqrt(Qp), the mean over the whole tensor (published code); shape (O,)."""
    _, largest = weight_range(bits)
    return jnp.full(w.shape[-1], 2 * jnp.mean(jnp.abs(w)) / largest**0.5, w.dtype)


def quantize(w: jax.Array, step_size: jax.Array, bits: int) -> QuantizedWeight:
    """Weights on the b-bit grid, with the LSQ gradients.

    Args:
      w: (..., O) weights, output channels last.
      step_size: (O,) alpha.
      bits: 2 to 8.

    Raises:
      ValueError: bits out of range.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"LSQ takes 2 to 8 bits, got {bits}")
    integers, scale = _lsq(w, step_size, bits)
    return QuantizedWeight(integers=integers, scale=scale)


def quantize_by_bits(w: jax.Array, step_size: jax.Array | None, bits: int) -> QuantizedWeight:
    """Weights at any of the numbers of bits: LSQ, one bit, or float (32) with a scale of 1.

    Args:
      w: (..., O) weights, output channels last.
      step_size: (O,) alpha for 2 to 8 bits.
      bits: 1 to 8, or 32.
    """
    if bits == 32:
        return QuantizedWeight(w, jnp.ones(w.shape[-1], w.dtype))
    return binarize(w) if step_size is None else quantize(w, step_size, bits)


def _usable(step_size: jax.Array) -> jax.Array:
    return jnp.maximum(step_size, SMALLEST_STEP_SIZE)


def _lsq(w: jax.Array, step_size: jax.Array, bits: int) -> tuple[jax.Array, jax.Array]:
    smallest, largest = weight_range(bits)
    scale = _usable(step_size)
    return jnp.round(jnp.clip(w / scale, smallest, largest)), scale


@functools.partial(jax.jit, static_argnums=2)
def _lsq_forward(w, step_size, bits):
    return _lsq(w, step_size, bits), (w, step_size)


@functools.partial(jax.jit, static_argnums=0)
def _lsq_backward(bits, residuals, grads):
    """Gradients of w and alpha from those of n = w_int and alpha, with w_q = alpha n and r = w / alpha.

    The layer hands back  dL/dn = alpha dL/dw_q  and, for n as it stands,  dL/dalpha = sum(n dL/dw_q).
    Rounding passes its gradient on:  dn/dw = 1 / alpha,  dn/dalpha = -r / alpha  inside, 0 outside.
    w:      dL/dn dn/dw = dL/dw_q inside, 0 outside.
    alpha:  sum(n dL/dw_q) + sum(dL/dn dn/dalpha) = sum((n - r) dL/dw_q) inside, sum(n dL/dw_q) outside,
            where n is Qn or Qp. LSQ multiplies this by g = 1 / sqrt(numel(w) Qp).
    """
    w, step_size = residuals
    grad_integers, grad_scale = grads
    smallest, largest = weight_range(bits)
    scale = _usable(step_size)
    ratio = w / scale
    inside = (ratio >= smallest) & (ratio <= largest)
    grad_w = jnp.where(inside, grad_integers / scale, 0)
    grad_step_size = grad_scale - jnp.sum(grad_w * ratio, axis=range(w.ndim - 1))
    return grad_w, grad_step_size / (w.size * largest) ** 0.5


# Not as a decorator, under which type checkers lose the signature.
_lsq = jax.custom_vjp(_lsq, nondiff_argnums=(2,))
_lsq.defvjp(_lsq_forward, _lsq_backward)


@jax.custom_vjp
def binarize(w: jax.Array) -> QuantizedWeight:
    """One-bit weights sign(w) * mean|w| per output channel, sign(0) = 1 (this project's rule for b = 1).

    LSQ has no b = 1 (Qp would be 0). The scale follows the weights and is not learned; the gradient
    passes straight through to w.

    Args:
      w: (..., O) weights, output channels last.
    """
    scale = _usable(exact_mean(jnp.abs(w), tuple(range(w.ndim - 1))))
    return QuantizedWeight(integers=jnp.where(w >= 0, 1, -1).astype(w.dtype), scale=scale)


def _binarize_forward(w):
    weight = binarize(w)
    return weight, weight.scale


def _binarize_backward(scale, grad):
    """The gradient of w from that of n = sign(w), with w_q = s n and s = mean|w|.

    The layer hands back  dL/dn = s dL/dw_q.
    Straight through means  dL/dw = dL/dw_q = dL/dn / s.
    The gradient of s is left out: s follows the weights and is no parameter.
    """
    return (grad.integers / scale,)


binarize.defvjp(_binarize_forward, _binarize_backward)
