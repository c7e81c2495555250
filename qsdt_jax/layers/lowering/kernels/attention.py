"""q (k^T v) of a head in one kernel, and its three gradients in another.

    forward     reads the codes of q, k and v, a byte each, and writes y in float32
    backward    reads the codes and dy in bfloat16, and writes the three gradients in bfloat16

XLA takes a kernel for each of the seven products, and others between them that turn the tokens of a head into
rows of a matrix, write k^T v in pieces and join their products. Here a program has an image and a head. It
runs over blocks of tokens twice: first for k^T v (and q^T dy), which stay in registers, then for the products
of these with rows of tokens.

The plain versions are `count_attention` on other platforms and `_gradients`, in `lowering.attention`. k^T v
goes into its products in pieces that bfloat16 holds, and all sums are float32: forward is exact.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.typing import DTypeLike

from qsdt_jax.core.exact import attention_sum, largest_exact
from qsdt_jax.core.spikes import counts_of
from qsdt_jax.layers.lowering.kernels.available import kernels_available
from qsdt_jax.layers.lowering.kernels.spread import by_images, result_of
from qsdt_jax.layers.lowering.pieces import PIECE_BITS, pieces_of

TOKENS = 64  # Rows of a block.
MOST_TOKENS = 1024  # A program runs over all tokens of an image, and few programs leave a GPU idle.
MOST_WIDTH = 64  # Channels of a head, for k^T v to stay in registers.
LEAST_WIDTH = 16  # Of a product on tensor cores.


def can_use_attention(shape: tuple[int, ...], heads: int, levels: int) -> bool:
    """Whether the kernels are for codes (int8) of the shape (N, L, C), of counts up to `levels`."""
    _, tokens, channels = shape
    if not kernels_available():
        return False
    exact = attention_sum(tokens, channels // heads, levels) <= largest_exact(jnp.float32)
    return exact and tokens <= MOST_TOKENS and channels // heads <= MOST_WIDTH


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, heads: int, levels: int, interpret: bool = False
) -> jax.Array:
    """q (k^T v) for each head, exact.

    Args:
      q, k, v: (N, L, C) codes, int8 (`core.spikes`), of counts up to `levels`.
      heads: that share the C channels evenly.
      levels: D, the largest count.
      interpret: see the package.

    Returns:
      (N, L, C) float32.
    """

    def run(q, k, v):
        kernel = functools.partial(_attention, largest=q.shape[1] * levels**2)
        return _by_heads(kernel, (q, k, v), heads, [jnp.float32], interpret)[0]

    return by_images("attention", run, "n l c, n l c, n l c -> n l c")(q, k, v)


def attention_gradients(
    q: jax.Array, k: jax.Array, v: jax.Array, dy: jax.Array, heads: int, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of q, k and v, (N, L, C) bfloat16, given their codes and that of y, dy, in bfloat16."""

    def run(q, k, v, dy):
        operands = (q, k, v, dy)
        return _by_heads(_gradients, operands, heads, [dy.dtype] * 3, interpret)

    rule = "n l c, n l c, n l c, n l c -> n l c, n l c, n l c"
    return by_images("attention_gradients", run, rule)(q, k, v, dy)


def _by_heads(
    kernel: Callable,
    operands: Sequence[jax.Array],
    heads: int,
    dtypes: Sequence[DTypeLike],
    interpret: bool,
) -> tuple[jax.Array, ...]:
    """Runs a kernel for each image and head: with their part (L, width) of each operand and each result."""
    n, tokens, channels = operands[0].shape
    shape = (n, tokens, heads, channels // heads)
    # Triton takes powers of two alone: blocks reach beyond a head, and the kernel leaves what lies there.
    width = max(LEAST_WIDTH, pl.next_power_of_2(shape[3]))
    part = pl.BlockSpec((None, pl.cdiv(tokens, TOKENS) * TOKENS, None, width), lambda n, h: (n, 0, h, 0))
    results = pl.pallas_call(
        functools.partial(kernel, tokens=tokens, width=shape[3]),
        out_shape=[result_of(operands[0], shape, dtype) for dtype in dtypes],
        grid=(n, heads),
        in_specs=[part] * len(operands),
        out_specs=[part] * len(dtypes),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
    )(*(x.reshape(shape) for x in operands))
    return tuple(y.reshape(n, tokens, channels) for y in results)


class _Rows:
    """A block of tokens of a head: how a kernel reads and writes it, (TOKENS, W) of `tokens` and `width`."""

    def __init__(self, block: jax.Array, ref, tokens: int, width: int):
        self._at = pl.ds(block * TOKENS, TOKENS)
        rows = block * TOKENS + jnp.arange(TOKENS)
        self._inside = (rows < tokens)[:, None] & (jnp.arange(ref.shape[1]) < width)[None, :]

    def of(self, ref) -> jax.Array:
        """Real values as they are, or the counts of codes in bfloat16; 0 beyond the tokens and the width."""
        values = triton.load(ref.at[self._at, :], mask=self._inside, other=0)
        return counts_of(values, jnp.float32).astype(jnp.bfloat16) if values.dtype == jnp.int8 else values

    def write(self, ref, values: jax.Array) -> None:
        triton.store(ref.at[self._at, :], values.astype(ref.dtype), mask=self._inside)


def _attention(q_ref, k_ref, v_ref, y_ref, *, tokens: int, width: int, largest: int):
    """M = k^T v, of numbers up to `largest`, and y = q M."""

    def add(block, m):
        rows = _Rows(block, q_ref, tokens, width)
        return m + triton.dot(rows.of(k_ref), rows.of(v_ref), trans_a=True)

    m = lax.fori_loop(0, pl.cdiv(tokens, TOKENS), add, _zeros(q_ref))
    pieces = [piece.astype(jnp.bfloat16) for piece in pieces_of(m, largest)]

    def multiply(block, _):
        rows = _Rows(block, q_ref, tokens, width)
        q = rows.of(q_ref)
        sums = [triton.dot(q, piece) * 2.0 ** (PIECE_BITS * i) for i, piece in enumerate(pieces)]
        rows.write(y_ref, functools.reduce(jnp.add, sums))

    lax.fori_loop(0, pl.cdiv(tokens, TOKENS), multiply, None)


def _gradients(q_ref, k_ref, v_ref, dy_ref, dq_ref, dk_ref, dv_ref, *, tokens: int, width: int):
    """M = k^T v and dL/dM = q^T dy, in bfloat16; dL/dq = dy M^T, dL/dk = v (dL/dM)^T, dL/dv = k dL/dM."""

    def add(block, sums):
        rows = _Rows(block, q_ref, tokens, width)
        m = triton.dot(rows.of(k_ref), rows.of(v_ref), trans_a=True)
        dm = triton.dot(rows.of(q_ref), rows.of(dy_ref), trans_a=True)
        return sums[0] + m, sums[1] + dm

    sums = lax.fori_loop(0, pl.cdiv(tokens, TOKENS), add, (_zeros(q_ref), _zeros(q_ref)))
    m, dm = (x.astype(jnp.bfloat16) for x in sums)

    def multiply(block, _):
        rows = _Rows(block, q_ref, tokens, width)
        rows.write(dq_ref, triton.dot(rows.of(dy_ref), m, trans_b=True))
        rows.write(dk_ref, triton.dot(rows.of(v_ref), dm, trans_b=True))
        rows.write(dv_ref, triton.dot(rows.of(k_ref), dm))

    lax.fori_loop(0, pl.cdiv(tokens, TOKENS), multiply, None)


def _zeros(ref) -> jax.Array:
    return jnp.zeros((ref.shape[1], ref.shape[1]), jnp.float32)
