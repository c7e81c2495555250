"""q (k^T v) for each head, on spike counts: whole numbers, of which no operand and no sum is rounded.

k^T v reaches L D^2 and q (k^T v) L d D^3, for L tokens, heads of d channels and counts up to D. So the sizes
of a network say which arithmetic is exact for it (`count_attention`):

    up to 2^24       float32 of full precision. By default accelerators round operands to 8 or 11 bits.
    up to 2^31 - 1   int32; the result is rounded to float32 once, as that of the integer form is.
    above            none. float32 rounds; `core.exact.check_sums` refuses that where exactness is asked for.

On GPUs both go through the tensor cores in bfloat16, which holds counts, and k^T v in pieces of 9 bits: in
one kernel where codes of the counts are known and the shape suits it (`kernels.attention`).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from qsdt_jax.core.exact import LARGEST_INT32, attention_sum, is_narrow, largest_exact
from qsdt_jax.core.spikes import counts_of
from qsdt_jax.layers.lowering.bytes import LARGEST_BYTE
from qsdt_jax.layers.lowering.kernels.attention import attention, attention_gradients, can_use_attention
from qsdt_jax.layers.lowering.pieces import LARGEST_PIECE, PIECE_BITS, pieces_of


def count_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    heads: int,
    levels: int,
    gradient_dtype: DTypeLike = jnp.float32,
    codes: Sequence[jax.Array | None] | None = None,
) -> jax.Array:
    """q (k^T v) for each head.

    Args:
      q, k, v: (N, L, C) counts 0..levels, in a float type.
      heads: that share the C channels evenly.
      levels: D, the largest count.
      gradient_dtype: operand type of the products of the backward pass.
      codes: of q, k and v (`core.spikes`), which the backward pass keeps in their place if it multiplies in a
        narrow type and they are bytes.

    Returns:
      (N, L, C) in float32, or in float64 if the counts are.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    largest = attention_sum(q.shape[1], q.shape[2] // heads, levels)
    real = functools.partial(real_attention, heads=heads)
    if largest > LARGEST_INT32 or dtype != jnp.float32:
        return real(q, k, v)

    def whole(q, k, v):
        return integer_attention(q, k, v, heads, levels).astype(dtype)

    if largest > largest_exact(dtype):
        return whole(q, k, v)
    bytes_of_each = _in_bytes(codes)
    if bytes_of_each is None or not can_use_attention(q.shape, heads, levels):
        return lax.platform_dependent(q, k, v, cuda=whole, default=real)

    def in_one_kernel(counts, codes):
        return attention(*codes, heads=heads, levels=levels)

    def plain(counts, codes):
        return real(*counts)

    return lax.platform_dependent((q, k, v), bytes_of_each, cuda=in_one_kernel, default=plain)


def _in_bytes(codes: Sequence[jax.Array | None] | None) -> tuple[jax.Array, ...] | None:
    """The codes of q, k and v, if they are known and bytes."""
    known = tuple(x for x in codes or () if x is not None and x.dtype == jnp.int8)
    return known if len(known) == 3 else None


def _forward(q, k, v, heads, levels, gradient_dtype, codes):
    y = count_attention(q, k, v, heads, levels, gradient_dtype, codes)
    return y, (is_narrow(gradient_dtype) and _in_bytes(codes)) or (q, k, v)


def _backward(heads, levels, gradient_dtype, residuals, dy):
    """Gradients of q, k and v, with M = k^T v (d x d, a head) and y = q M.

    dL/dq = dy M^T  and  dL/dM = q^T dy.  M is linear in k and in v:
    dL/dk = v (dL/dM)^T  and  dL/dv = k dL/dM.
    The products with dy are real. In a float32 program they are of full precision, since M is one operand. In
    a narrow type dy, M and dL/dM are rounded to it, and sums are float32.
    """
    (q, k, v), real = residuals, dy.dtype
    if not is_narrow(gradient_dtype):
        return *_gradients(q, k, v, dy, heads, real, real), None
    codes = jnp.issubdtype(q.dtype, jnp.integer)

    def gradients(q, k, v, dy, operand):
        q, k, v = (counts_of(x, gradient_dtype) if codes else x.astype(gradient_dtype) for x in (q, k, v))
        return _gradients(q, k, v, dy, heads, gradient_dtype, operand)

    on_gpu = functools.partial(gradients, operand=gradient_dtype)
    if codes and gradient_dtype == jnp.bfloat16 and can_use_attention(q.shape, heads, levels):
        on_gpu = functools.partial(attention_gradients, heads=heads)
    wide = functools.partial(gradients, operand=real)
    grads = lax.platform_dependent(q, k, v, dy.astype(gradient_dtype), cuda=on_gpu, default=wide)
    return *(grad.astype(real) for grad in grads), None


def _gradients(q, k, v, dy, heads: int, rounded: DTypeLike, operand: DTypeLike) -> tuple[jax.Array, ...]:
    """Gradients in the type `rounded`, as their operands are, which are multiplied in `operand`."""
    q, k, v, dy = (x.astype(operand).reshape(*x.shape[:2], heads, -1) for x in (q, k, v, dy))
    real = jnp.promote_types(rounded, jnp.float32)
    precision = lax.Precision.HIGHEST if rounded == real else None

    def product(equation, left, right):
        y = jnp.einsum(equation, left, right, precision=precision, preferred_element_type=real).astype(
            rounded
        )
        # Without the barrier XLA takes what widens y into the kernel, which then writes it as float32.
        return y if rounded == real else lax.optimization_barrier(y)

    kv = product("nlhc,nlhd->nhcd", k, v).astype(operand)
    grad_kv = product("nlhc,nlhd->nhcd", q, dy).astype(operand)
    grads = (
        product("nlhd,nhcd->nlhc", dy, kv),
        product("nlhd,nhcd->nlhc", v, grad_kv),
        product("nlhc,nhcd->nlhd", k, grad_kv),
    )
    return tuple(grad.reshape(*grad.shape[:2], -1) for grad in grads)


# Not as a decorator, under which type checkers lose the signature.
count_attention = jax.custom_vjp(count_attention, nondiff_argnums=(3, 4, 5))
count_attention.defvjp(_forward, _backward)


def real_attention(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """q (k^T v) for each head, of (N, L, C) -> the same shape, summed in float32, or float64 if they are."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    q, k, v = (x.astype(dtype).reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    exact = lax.Precision.HIGHEST
    kv = jnp.einsum("nlhc,nlhd->nhcd", k, v, precision=exact)
    y = jnp.einsum("nlhc,nhcd->nlhd", q, kv, precision=exact)
    return y.reshape(*y.shape[:2], -1)


def integer_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, heads: int, levels: int = LARGEST_BYTE
) -> jax.Array:
    """q (k^T v) for each head, of counts (N, L, C) -> int32 (N, L, C), exact below 2^31.

    Args:
      q, k, v: (N, L, C) counts, of int8 or of any type that holds them.
      heads: that share the C channels evenly.
      levels: D, the largest count.
    """
    operand = jnp.int8 if levels <= LARGEST_BYTE else jnp.int32
    elsewhere = functools.partial(_in_int32, heads=heads, operand=operand)
    on_gpu = elsewhere
    tokens, width = q.shape[1], q.shape[2] // heads
    exact = largest_exact(jnp.float32)
    if levels <= LARGEST_PIECE and max(tokens * levels**2, width * levels * LARGEST_PIECE) <= exact:
        on_gpu = functools.partial(_on_tensor_cores, heads=heads, levels=levels)
    return lax.platform_dependent(q, k, v, cuda=on_gpu, rocm=on_gpu, default=elsewhere)


def _in_int32(q: jax.Array, k: jax.Array, v: jax.Array, heads: int, operand: DTypeLike) -> jax.Array:
    q, k, v = (x.astype(operand).reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    kv = jnp.einsum("nlhc,nlhd->nhcd", k, v, preferred_element_type=jnp.int32)
    y = jnp.einsum("nlhc,nhcd->nlhd", q.astype(jnp.int32), kv)
    return y.reshape(*y.shape[:2], -1)


def _on_tensor_cores(q: jax.Array, k: jax.Array, v: jax.Array, heads: int, levels: int) -> jax.Array:
    """Both products in bfloat16, summed in float32; the pieces of k^T v joined in int32.

    A GPU multiplies 32-bit integers one by one.
    """
    n, tokens, channels = q.shape
    q, k, v = (x.astype(jnp.bfloat16).reshape(n, tokens, heads, -1) for x in (q, k, v))
    kv = jnp.einsum("nlhc,nlhd->nhcd", k, v, preferred_element_type=jnp.float32)
    pieces = jnp.stack(pieces_of(kv, tokens * levels**2), axis=-2).astype(jnp.bfloat16)
    sums = jnp.einsum("nlhc,nhcpd->nlhpd", q, pieces, preferred_element_type=jnp.float32).astype(jnp.int32)
    places = 2 ** (PIECE_BITS * jnp.arange(pieces.shape[-2], dtype=jnp.int32))
    y = jnp.sum(sums * places[:, None], axis=-2, dtype=jnp.int32)
    return y.reshape(n, tokens, channels)
