"""Q-SDSA: quantised spike-driven self-attention, and the softmax attention of its float twin."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.exact import attention_sum, check_sums, rounded
from qsdt_jax.core.spikes import Spikes, values_of
from qsdt_jax.layers import lowering
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.repconv import RepConv
from qsdt_jax.layers.spiking import HeadRectify, Rectify, SpikingNeuron
from qsdt_jax.layers.tokens import factors_of_counts

Attention = Literal["spiking", "softmax"]


def spike_attention(
    q: Spikes | jax.Array,
    k: Spikes | jax.Array,
    v: Spikes | jax.Array,
    num_heads: int,
    scale: float,
    *,
    reference: int = 0,
    valid: jax.Array | None = None,
    gradient_dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """scale * q (k^T v), heads apart, no softmax.

    Computed on counts: k^T v and q (k^T v) are whole numbers, at most L d D^3 for L tokens and heads of d
    channels. For size L at 224 that is 1 M for D = 4, at 384 with D = 8 it is 23.6 M and above 2^24; the
    arithmetic follows from the number (`lowering.count_attention`) and is exact up to 2^31. The scale follows
    once.

    Args:
      q, k, v: (N, L, C) spikes, or what a network without spiking neurons has; L tokens.
      num_heads: heads that share the C channels evenly.
      scale: 0.25 in the published code (0.125 in SDT-V2).
      reference: the number of tokens that the scale is meant for: an image with n valid tokens has
        scale * reference / n. 0 for the same scale everywhere.
      valid: (N, L) booleans, the tokens that belong to the image; no other is summed. None for all.
      gradient_dtype: operand type of the products of the backward pass.

    Returns:
      (N, L, C) real values.
    """
    tokens = q.shape[1]
    if valid is not None:
        k = _only(k, valid)
    if isinstance(q, Spikes) and isinstance(k, Spikes) and isinstance(v, Spikes):
        levels = max(q.levels, k.levels, v.levels)
        codes = [x.codes for x in (q, k, v)]
        y = lowering.count_attention(q.counts, k.counts, v.counts, num_heads, levels, gradient_dtype, codes)
        scale *= q.step * k.step * v.step
    else:
        y = lowering.real_attention(values_of(q), values_of(k), values_of(v), num_heads)
    factor: float | jax.Array = scale
    if reference:
        factors = factors_of_counts(scale, reference, tokens, y.dtype)
        count = tokens if valid is None else jnp.sum(valid, axis=1, dtype=jnp.int32)[:, None, None]
        factor = jnp.asarray(factors)[count]
    # Rounded, or this factor and the neuron's would become one.
    return rounded(y * factor)


def _only(k: Spikes | jax.Array, valid: jax.Array) -> Spikes | jax.Array:
    """k with zeros in the place of tokens that are not valid."""
    return jax.tree.map(lambda x: jnp.where(valid[:, :, None], x, 0), k)


def softmax_attention(
    q: Spikes | jax.Array,
    k: Spikes | jax.Array,
    v: Spikes | jax.Array,
    num_heads: int,
    valid: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v, heads apart: the usual attention, on real values.

    Args:
      q, k, v: (N, L, C), L tokens.
      num_heads: heads that share the C channels evenly; d = C / heads.
      valid: (N, L) booleans, the tokens that are attended to; None for all.

    Returns:
      (N, L, C).
    """
    heads = [values_of(x).reshape(*x.shape[:2], num_heads, -1) for x in (q, k, v)]
    scores = jnp.einsum("nlhc,nmhc->nhlm", heads[0], heads[1]) * heads[0].shape[-1] ** -0.5
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, -jnp.inf)
    return jnp.einsum("nhlm,nmhc->nlhc", jax.nn.softmax(scores), heads[2]).reshape(q.shape)


class QSDSA(nn.Module):
    """Quantised spike-driven self-attention (paper, section 4; published code).

    x -> neuron; q, k, v = neuron(BN(RepConv(.))); y = scale * q (k^T v) -> neuron -> BN(RepConv(.)).

    Attributes:
      numerics: shared numerical choices.
      num_heads: heads; must divide the channels.
      attention: "spiking", or "softmax" for `softmax_attention` in place of y, which has its own scale.
      scale: factor on the product.
      rectify: "bn" or "norm", see `HeadRectify`.
      reference: token count that the scale is meant for, see `spike_attention`.
      gain, threshold: of the neuron behind the product, see `SpikingNeuron`. Its spikes are worth 2/D instead
        of 1/D in the published code.
      qkv_bias_init: initial bias of the batch norms before the neurons of q, k and v. From 0, the published
        value, binary neurons fire so rarely in a small network that their product is silent.
    """

    numerics: Numerics
    num_heads: int = 8
    attention: Attention = "spiking"
    scale: float = 0.25
    rectify: Rectify = "bn"
    reference: int = 0
    gain: float = 2.0
    threshold: float | None = None
    qkv_bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None = None) -> Affine:
        """x (N, H, W, C) -> the same shape; in evaluation not yet scaled.

        `valid`, (N, H, W) booleans, says which tokens belong to the image; None: all.

        Raises:
          ValueError: the heads do not divide the channels, or nothing holds the sums of `exact_evaluation`.
        """
        numerics, (n, height, width, channels) = self.numerics, x.shape
        if channels % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide {channels} channels")
        spikes = SpikingNeuron(numerics, name="neuron")(x)
        q, k, v = (self._project(spikes, name, train) for name in "qkv")
        if self.attention == "spiking" and numerics.neuron is not None and numerics.exact_evaluation:
            largest = attention_sum(height * width, channels // self.num_heads, numerics.neuron.levels)
            check_sums("/".join(self.path) or "attention", largest)
        tokens = None if valid is None else valid.reshape(n, height * width)
        y = self.product(q, k, v, tokens).reshape(n, height, width, channels)
        spikes = SpikingNeuron(numerics, self.gain, threshold=self.threshold, name="attn_neuron")(y)
        y = RepConv(numerics, name="proj_repconv")(spikes, train)
        return BatchNorm(numerics, name="proj_bn")(y, train)

    def product(self, q, k, v, valid: jax.Array | None) -> jax.Array:
        """The attention of q, k and v, (N, L, C) spikes or real values, to valid tokens (N, L)."""
        if self.attention == "softmax":
            return softmax_attention(q, k, v, self.num_heads, valid)
        return spike_attention(
            q,
            k,
            v,
            self.num_heads,
            self.scale,
            reference=self.reference,
            valid=valid,
            gradient_dtype=self.numerics.dtype,
        )

    def _project(self, spikes: Spikes | jax.Array, name: str, train: bool) -> Spikes | jax.Array:
        """q, k or v: (N, L, C) spikes."""
        y = RepConv(self.numerics, name=f"{name}_repconv")(spikes, train)
        y = BatchNorm(self.numerics, bias_init=self.qkv_bias_init, name=f"{name}_bn")(y, train)
        if self.rectify == "norm":
            y = HeadRectify(self.numerics, self.num_heads, name=f"{name}_rectify")(y, train)
        tokens = y.real.reshape(y.shape[0], -1, y.shape[-1])
        return SpikingNeuron(self.numerics, name=f"{name}_neuron")(tokens)
