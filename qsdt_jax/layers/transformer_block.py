"""The transformer block: Q-SDSA and MLP with layer scale, membrane shortcuts and drop path."""

import jax
from flax import linen as nn

from qsdt_jax.devices import device_count, own_rows
from qsdt_jax.layers.attention import QSDSA, Attention
from qsdt_jax.layers.mlp import MLP
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.spiking import Rectify


class DropPath(nn.Module):
    """Drops a residual branch for a whole image, in all its time steps, with probability `rate`.

    The published code has the flag without the effect; here it works (random stream "drop_path").
    """

    rate: float
    timesteps: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B * T, ...) -> the same shape; kept branches are divided by 1 - rate."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        images = x.reshape(-1, self.timesteps, *x.shape[1:])
        # Drawn for the whole batch, so that an image's fate does not depend on the number of devices.
        shape = (images.shape[0] * device_count(),) + (1,) * (images.ndim - 1)
        mask = own_rows(jax.random.bernoulli(self.make_rng("drop_path"), keep, shape))
        return (images * mask / keep).reshape(x.shape).astype(x.dtype)


class TransformerBlock(nn.Module):
    """x + ls1 * Q-SDSA(x), then x + ls2 * MLP(x) (published code); without layer scales in SDT-V2.

    Attributes:
      numerics: shared numerical choices.
      num_heads, mlp_ratio, attention, attention_scale, rectify: see `QSDSA` and `MLP`.
      attention_tokens: token count that the attention scale is meant for, 0 for any.
      layer_scale_init: initial value of the two layer scales.
      drop_path: probability of dropping each branch.
      attention_gain, attention_threshold: of the neuron behind the attention product, see `QSDSA`.
      layer_scale: whether there are layer scales.
      qkv_bias_init: see `QSDSA`.
    """

    numerics: Numerics
    num_heads: int = 8
    mlp_ratio: int = 4
    attention: Attention = "spiking"
    attention_scale: float = 0.25
    rectify: Rectify = "bn"
    layer_scale_init: float = 1e-6
    drop_path: float = 0.0
    attention_tokens: int = 0
    attention_gain: float = 2.0
    attention_threshold: float | None = None
    layer_scale: bool = True
    qkv_bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None = None) -> jax.Array:
        """x (N, H, W, C), of which tokens `valid` (N, H, W) belong to the image -> the same shape."""
        numerics = self.numerics
        attention = QSDSA(
            numerics,
            self.num_heads,
            self.attention,
            self.attention_scale,
            self.rectify,
            self.attention_tokens,
            self.attention_gain,
            self.attention_threshold,
            self.qkv_bias_init,
            name="attn",
        )
        mlp = MLP(numerics, self.mlp_ratio, name="mlp")
        drop_path = DropPath(self.drop_path, numerics.timesteps, name="drop_path")
        branches = (lambda x: attention(x, train, valid)), (lambda x: mlp(x, train))
        for i, branch in enumerate(branches, start=1):
            y = branch(x)
            if self.layer_scale:
                init = nn.initializers.constant(self.layer_scale_init)
                y = y * self.param(f"layer_scale{i}", init, (x.shape[-1],), numerics.param_dtype)
            x = x + drop_path(y.real, train)
        return x
