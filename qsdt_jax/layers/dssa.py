"""DSSA, the dual spike self-attention of SpikingResformer (Shi et al., CVPR 2024)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from qsdt_jax.core.spikes import Spikes
from qsdt_jax.devices import mean_over_devices
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv, head_init
from qsdt_jax.layers.spiking import SpikingNeuron

MOMENTUM = 0.001  # Of firing rates: new = 0.999 old + 0.001 batch.


class DSSA(nn.Module):
    """Attention of which both products have spikes on one side, so that both are additions (published code).

    Of c channels a head, tokens N = H W and pooled tokens P = floor(H / p) floor(W / p):

        s = neuron(x)                                spikes (N, C)
        Y = BN(convolution p x p, stride p (s))      real (P, 2C); of each head's 2c channels Y1 and Y2
        A = neuron(Y1 s^T / sqrt(f_x c))             spikes (P, N)
        Z = neuron(A^T Y2 / sqrt(f_A P))             spikes (N, c)
        x + BN(1x1(Z))

    f_x and f_A are moving averages of the firing rates of s and A, one number a head ("rate_x" and
    "rate_attn" in "batch_stats"). A training moves them by the present batch before it uses them; while those
    of all heads are zero, as a new network's are, the batch's own take their place. In the published code a
    head that has never fired divides by zero. Here it counts as one that always fires, the smallest factor.
    The rates are those of the images that share batch-norm statistics, see `layers.batch_norm.BatchNorm`.

    Attributes:
      numerics: shared numerical choices; its neuron is binary.
      num_heads: h; must divide the channels.
      patch: p, side of the patches that are pooled.
      tokens: what stands for P below the root, where the published code has the pooled tokens of an image of
        the configured size; 0 for P itself.
    """

    numerics: Numerics
    num_heads: int
    patch: int
    tokens: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (N, H, W, C) -> the same shape.

        Raises:
          ValueError: the heads do not divide the channels, or the image is smaller than a patch.
        """
        numerics, heads, (n, height, width, channels) = self.numerics, self.num_heads, x.shape
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        if min(height, width) < self.patch:
            raise ValueError(f"{height}x{width} tokens hold no patch of {self.patch}x{self.patch}")
        spikes = SpikingNeuron(numerics, name="neuron")(x)
        assert isinstance(spikes, Spikes)
        pool = QConv(
            2 * channels,
            numerics,
            kernel_size=self.patch,
            stride=self.patch,
            kernel_init=head_init,
            name="patch_conv",
        )
        y = BatchNorm(numerics, name="patch_bn")(pool(spikes, train), train).real
        pooled = y.shape[1] * y.shape[2]
        both = y.reshape(n, pooled, heads, 2, channels // heads)
        keys = spikes.values.reshape(n, height * width, heads, -1)

        factor = self._factor("rate_x", keys, (0, 1, 3), channels // heads, train)
        scores = self._product("nphc,nlhc->nhpl", both[..., 0, :], keys) * factor[..., None, None]
        attention = SpikingNeuron(numerics, name="attn_neuron")(scores)
        assert isinstance(attention, Spikes)
        factor = self._factor("rate_attn", attention.values, (0, 2, 3), self.tokens or pooled, train)
        z = self._product("nphc,nhpl->nlhc", both[..., 1, :], attention.values) * factor[:, None, :, None]

        spikes = SpikingNeuron(numerics, name="out_neuron")(z.reshape(x.shape))
        y = QConv(channels, numerics, kernel_init=head_init, name="proj_conv")(spikes, train)
        return x + BatchNorm(numerics, name="proj_bn")(y, train).real

    def _factor(
        self, name: str, spikes: jax.Array, axes: tuple[int, ...], terms: int, train: bool
    ) -> jax.Array:
        """(N or 1, h) 1 / sqrt(rate * terms), of the rate that is kept under a name, moved in training.

        The axes of `spikes`, the first among them, are all but that of the heads.
        """
        numerics = self.numerics
        running = self.variable("batch_stats", name, jnp.zeros, (self.num_heads,), numerics.param_dtype)
        rate = running.value[None]
        if train and not numerics.freeze_statistics:
            rows, groups = spikes.shape[0], numerics.group_count(spikes.shape[0])
            grouped = lax.stop_gradient(spikes).reshape(groups, -1, *spikes.shape[1:])
            batch = jnp.mean(grouped, tuple(axis + 1 for axis in axes), dtype=rate.dtype)
            if not numerics.norm_group:
                batch = mean_over_devices(batch)
            rate = jnp.where(jnp.all(rate == 0), batch, (1 - MOMENTUM) * rate + MOMENTUM * batch)
            if not self.is_initializing():
                running.value = jnp.mean(rate, 0)
            rate = jnp.repeat(rate, rows // groups, 0)
        return lax.rsqrt(jnp.where(rate > 0, rate, 1) * terms).astype(spikes.dtype)

    def _product(self, axes: str, real: jax.Array, spikes: jax.Array) -> jax.Array:
        """Of real values and spikes, multiplied in the network's dtype, summed in the real one."""
        operands = (real.astype(self.numerics.dtype), spikes.astype(self.numerics.dtype))
        return jnp.einsum(axes, *operands, preferred_element_type=real.dtype)


class GWFFN(nn.Module):
    """Group-wise feed-forward network of SpikingResformer: a grouped 3x3 inside, and two nested shortcuts.

        a = BN(1x1(neuron(x)))                 C -> 4C
        b = a + BN(grouped 3x3(neuron(a)))
        x + BN(1x1(neuron(b)))                 4C -> C

    Attributes:
      numerics: shared numerical choices.
      group_size: channels of a group of the 3x3 convolution; must divide 4C.
      ratio: widening, 4 in the published code.
    """

    numerics: Numerics
    group_size: int = 64
    ratio: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (N, H, W, C) -> the same shape; raises ValueError where groups do not divide the channels."""
        numerics, wide = self.numerics, self.ratio * x.shape[-1]
        if wide % self.group_size:
            raise ValueError(f"groups of {self.group_size} channels do not divide {wide}")
        spikes = SpikingNeuron(numerics, name="neuron1")(x)
        y = QConv(wide, numerics, kernel_init=head_init, name="up")(spikes, train)
        a = BatchNorm(numerics, name="bn1")(y, train).real

        spikes = SpikingNeuron(numerics, name="neuron2")(a)
        grouped = QConv(
            wide,
            numerics,
            kernel_size=3,
            padding=1,
            groups=wide // self.group_size,
            kernel_init=head_init,
            name="conv",
        )
        b = a + BatchNorm(numerics, name="bn2")(grouped(spikes, train), train).real

        spikes = SpikingNeuron(numerics, name="neuron3")(b)
        y = QConv(x.shape[-1], numerics, kernel_init=head_init, name="down")(spikes, train)
        return x + BatchNorm(numerics, name="bn3")(y, train).real
