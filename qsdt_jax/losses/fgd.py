"""FGD, fine-grained distillation: the student's q, k and v relate the tokens as the teacher's do.

The paper shows FGD in a figure and the published code lacks it. This is the distribution-guided distillation
of Q-ViT (Li et al., NeurIPS 2022), whose method the paper follows, extended to v. Per block l, head h and x
in {q, k, v}, with X (tokens x d):

    G_x = X X^T,  G_x <- G_x / ||G_x||_F
    L_FGD = sum over l, h, x of || G_x^teacher - G_x^student ||_F, the mean over the batch

A Gram matrix has the size of the tokens, so the widths of the heads may differ and the order of channels
plays no role. What else may differ is settled here (this project's rules): depth by `matching_block`, number
of tokens by resizing the teacher's q, k, v in space, and where the numbers of heads differ, all heads of a
block are compared as one.
"""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

Normalization = Literal["frobenius", "cosine"]


class Projections(struct.PyTreeNode):
    """What one attention block multiplies.

    Attributes:
      q, k, v: (N, H, W, C) real values.
      num_heads: heads that share the C channels evenly.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    num_heads: int = struct.field(pytree_node=False)


def fgd_loss(
    student: Sequence[Projections],
    teacher: Sequence[Projections],
    normalization: Normalization = "frobenius",
) -> jax.Array:
    """L_FGD of the blocks of two networks, in order; see the formula in this file.

    Args:
      student: blocks of the network that learns.
      teacher: blocks of the other; as many images, anything else may differ.
      normalization: see `gram_matrices`.

    Returns:
      () loss, at least 0.
    """
    total = jnp.zeros(())
    for i, own in enumerate(student):
        other = teacher[matching_block(i, len(student), len(teacher))]
        heads = own.num_heads if own.num_heads == other.num_heads else 1
        for x, y in ((own.q, other.q), (own.k, other.k), (own.v, other.v)):
            y = _resized(y, x.shape[1:3])
            difference = gram_matrices(x, heads, normalization) - gram_matrices(y, heads, normalization)
            total += jnp.mean(jnp.sum(_frobenius(difference), axis=1))
    return total


def matching_block(i: int, blocks: int, others: int) -> int:
    """The block of a network of `others` blocks that teaches block i of one of `blocks`.

    round((i + 1) * others / blocks) - 1, half up; the first where that would be none.
    """
    return max(0, math.floor((i + 1) * others / blocks + 0.5) - 1)


def gram_matrices(x: jax.Array, num_heads: int, normalization: Normalization = "frobenius") -> jax.Array:
    """Normalised Gram matrices of the tokens.

    Args:
      x: (N, H, W, C).
      num_heads: heads that share the C channels evenly.
      normalization: "frobenius" divides each matrix by its Frobenius norm; "cosine" makes its entries the
        cosines between tokens and then divides by the number of tokens, so both have norms up to 1. What is
        all zero stays zero.

    Returns:
      (N, heads, L, L) with L = H W.
    """
    tokens = x.reshape(x.shape[0], -1, num_heads, x.shape[-1] // num_heads)
    grams = jnp.einsum("nlhc,nmhc->nhlm", tokens, tokens)
    if normalization == "frobenius":
        return grams / _nonzero(_frobenius(grams))[..., None, None]
    lengths = _nonzero(_safe_sqrt(jnp.diagonal(grams, axis1=-2, axis2=-1)))
    return grams / (lengths[..., None] * lengths[..., None, :]) / grams.shape[-1]


def _resized(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """(N, H, W, C) at another height and width, bilinear."""
    if x.shape[1:3] == size:
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear")


def _frobenius(x: jax.Array) -> jax.Array:
    """The norm over the last two axes."""
    return _safe_sqrt(jnp.sum(jnp.square(x), axis=(-2, -1)))


def _safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root, with gradient 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(_nonzero(x)), 0)


def _nonzero(x: jax.Array) -> jax.Array:
    """x, with 1 in place of 0."""
    return jnp.where(x > 0, x, 1)
