"""Q-SDSA: quantised spike-driven self-attention."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from qsdt_jax.core.affine import Affine, real
from qsdt_jax.core.exact import rounded
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.repconv import RepConv
from qsdt_jax.layers.spiking import HeadRectify, Rectify, SpikingNeuron

# The neuron after the attention product emits spikes worth 2/D instead of 1/D (published code).
ATTENTION_GAIN = 2.0


def spike_attention(q: Spikes, k: Spikes, v: Spikes, num_heads: int, scale: float) -> jax.Array:
    """scale * q (k^T v), heads apart, no softmax and no division by the number of tokens.

    Computed on counts: k^T v and q (k^T v) are whole numbers below 2^24 in any net of this family, exact
    in float32 in any order of summation; the scale follows once.

    Args:
      q, k, v: (N, L, C) spikes, L tokens.
      num_heads: heads that share the C channels evenly.
      scale: 0.25 in the published code (0.125 in SDT-V2).

    Returns:
      (N, L, C) real values.
    """
    dtype = jnp.promote_types(q.counts.dtype, jnp.float32)
    heads = [x.counts.astype(dtype).reshape(*x.counts.shape[:2], num_heads, -1) for x in (q, k, v)]
    # Full precision: the default on accelerators rounds operands, and k^T v has more than 8 bits.
    exact = jax.lax.Precision.HIGHEST
    kv = jnp.einsum("nlhc,nlhd->nhcd", heads[1], heads[2], precision=exact)
    y = jnp.einsum("nlhc,nhcd->nlhd", heads[0], kv, precision=exact)
    # Rounded, or this factor and the neuron's would become one.
    return rounded(y.reshape(q.counts.shape) * (scale * q.step * k.step * v.step))


class QSDSA(nn.Module):
    """Quantised spike-driven self-attention (paper, section 4; published code).

    x -> neuron; q, k, v = neuron(BN(RepConv(.))); y = scale * q (k^T v) -> neuron -> BN(RepConv(.)).

    Attributes:
      numerics: shared numerical choices.
      num_heads: heads; must divide the channels.
      scale: factor on the product.
      rectify: "bn" or "norm", see `HeadRectify`.
    """

    numerics: Numerics
    num_heads: int = 8
    scale: float = 0.25
    rectify: Rectify = "bn"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array | Affine:
        """x (N, H, W, C) -> the same shape; in evaluation not yet scaled.

        Raises:
          ValueError: the heads do not divide the channels.
        """
        numerics, (n, height, width, channels) = self.numerics, x.shape
        if channels % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide {channels} channels")
        spikes = SpikingNeuron(numerics, name="neuron")(x)
        q, k, v = (self._project(spikes, name, train=train) for name in "qkv")
        y = spike_attention(q, k, v, self.num_heads, self.scale)
        y = y.reshape(n, height, width, channels)
        spikes = SpikingNeuron(numerics, gain=ATTENTION_GAIN, name="attn_neuron")(y)
        y = RepConv(numerics, name="proj_repconv")(spikes, train=train)
        return BatchNorm(numerics, name="proj_bn")(y, train=train)

    def _project(self, spikes: Spikes, name: str, *, train: bool) -> Spikes:
        """q, k or v: (N, L, C) spikes."""
        y = RepConv(self.numerics, name=f"{name}_repconv")(spikes, train=train)
        y = BatchNorm(self.numerics, name=f"{name}_bn")(y, train=train)
        if self.rectify == "norm":
            y = HeadRectify(self.numerics, self.num_heads, name=f"{name}_rectify")(y, train=train)
        tokens = real(y).reshape(y.shape[0], -1, y.shape[-1])
        return SpikingNeuron(self.numerics, name=f"{name}_neuron")(tokens)
