"""SpikingResformer (Shi et al., CVPR 2024), one of the networks that the paper compares itself with."""

from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.downsample import Downsample
from qsdt_jax.layers.dssa import DSSA, GWFFN
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QDense, head_init
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.models.classifier import HEAD, mean_over_time
from qsdt_jax.models.frames import frames_of
from qsdt_jax.models.parts import Parts

ResformerStage = Literal["stem", "stage1", "stage2", "stage3"]

# The published sizes.
RESFORMERS: dict[str, dict[str, Any]] = {
    "spikingresformer_ti": {"channels": (64, 192, 384), "num_heads": (1, 3, 6)},
    "spikingresformer_s": {"channels": (64, 256, 512), "num_heads": (1, 4, 8)},
    "spikingresformer_m": {"channels": (64, 384, 768), "num_heads": (1, 6, 12)},
    "spikingresformer_l": {"channels": (128, 512, 1024), "num_heads": (2, 8, 16)},
    "spikingresformer_cifar": {
        "channels": (64, 192, 384),
        "num_heads": (1, 3, 6),
        "small_images": True,
        "num_classes": 10,
    },
    "spikingresformer_gesture": {
        "channels": (32, 96, 192),
        "num_heads": (1, 3, 6),
        "small_images": True,
        "group_size": 32,
        "learned_decay": True,
        "num_classes": 11,
        "timesteps": 16,
    },
}


class SpikingResformer(nn.Module):
    """Three stages of DSSA and GWFFN with float weights and binary neurons (published code).

    stem (C1) -> stage 1 -> down (C2) -> stage 2 -> down (C3) -> stage 3 -> mean over the pixels -> dense
    layer without bias, and without a neuron before it.

    The neurons are LIF of tau 2 that halve their input, of threshold 1, with hard reset and the arctan
    surrogate.

    Attributes:
      channels: C1..C3.
      num_heads: of each stage; must divide its channels.
      patches: p of each stage, see `layers.dssa.DSSA`.
      depths: pairs of DSSA and GWFFN in each stage.
      group_size: channels of a group, see `layers.dssa.GWFFN`.
      small_images: the stem is a 3x3 convolution of stride 1, as published for CIFAR and events, and not a
        7x7 convolution and 3x3 max pooling, both of stride 2.
      num_classes: outputs of the head.
      in_channels: channels of the image.
      timesteps: T.
      learned_decay: each layer of neurons learns its decay (PLIF), which starts at 1/2.
      nominal_size: side of the images whose pooled tokens scale the attention; the published code takes the
        configured size, whatever the images are. 0 for the images' own. The same for square images of that
        size where all divisions come out even, such as 224.
      norm_group: images that share batch-norm statistics and firing rates, 0 for the whole batch.
      remat: of each downsampling, attention and feed-forward network, see `layers.remat`.
      dtype, param_dtype: see `layers.numerics.Numerics`.
    """

    PARTS: ClassVar[Parts] = Parts(beside=(HEAD,), of_classes=(HEAD,))

    channels: tuple[int, int, int] = (64, 192, 384)
    num_heads: tuple[int, int, int] = (1, 3, 6)
    patches: tuple[int, int, int] = (4, 2, 1)
    depths: tuple[int, int, int] = (1, 2, 3)
    group_size: int = 64
    small_images: bool = False
    num_classes: int = 1000
    in_channels: int = 3
    timesteps: int = 4
    learned_decay: bool = False
    nominal_size: int = 0
    norm_group: int = 0
    remat: Remat = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def numerics(self) -> Numerics:
        """The numerical choices shared by all layers; raises ValueError for values out of range."""
        neuron = make_neuron(
            "lif",
            levels=1,
            timesteps=self.timesteps,
            reset="hard",
            surrogate="arctan",
            decay_input=True,
            learned_decay=self.learned_decay,
        )
        return Numerics(
            bits=FLOAT_BITS,
            neuron=neuron,
            norm_group=self.norm_group,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def _check(self) -> None:
        for name in ("channels", "num_heads", "patches", "depths"):
            values = getattr(self, name)
            if len(values) != 3 or min(values) < 1:
                raise ValueError(f"{name} are three positive numbers, one for each stage; got {values}")
        for name in ("group_size", "num_classes", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.nominal_size < 0:
            raise ValueError(f"nominal_size must not be negative, got {self.nominal_size}")
        if self.remat not in get_args(Remat):
            raise ValueError(f"remat must be one of {', '.join(get_args(Remat))}; got {self.remat!r}")

    @nn.compact
    def _forward(self, images: jax.Array, train: bool) -> tuple[dict[ResformerStage, jax.Array], jax.Array]:
        """The residual stream after each stage, and logits (B * T, K)."""
        self._check()
        numerics = self.numerics
        x = frames_of(images, self.timesteps, self.in_channels).astype(numerics.real_dtype)
        found: dict[ResformerStage, jax.Array] = {"stem": self._stem(x, numerics, train)}
        x = found["stem"]
        side = self.nominal_size // (1 if self.small_images else 4)
        stages: tuple[ResformerStage, ...] = ("stage1", "stage2", "stage3")
        for i, stage in enumerate(stages):
            if i:
                down = Downsample(
                    self.channels[i],
                    numerics,
                    use_bias=False,
                    kernel_init=head_init,
                    name=f"downsample{i + 1}",
                )
                x, side = call_block(self.remat, down, x, train), side // 2
            tokens = (side // self.patches[i]) ** 2
            if self.nominal_size and not tokens:
                raise ValueError(f"nominal_size {self.nominal_size} holds no patch in {stage}")
            for j in range(self.depths[i]):
                attention = DSSA(
                    numerics, self.num_heads[i], self.patches[i], tokens, name=f"{stage}_dssa{j}"
                )
                x = call_block(self.remat, attention, x, train)
                forward = GWFFN(numerics, self.group_size, name=f"{stage}_gwffn{j}")
                x = call_block(self.remat, forward, x, train)
            found[stage] = x
        head = QDense(self.num_classes, numerics, use_bias=False, name=HEAD)
        return found, head(jnp.mean(x, (1, 2)), train).real

    def _stem(self, x: jax.Array, numerics: Numerics, train: bool) -> jax.Array:
        kernel_size, stride, padding = (3, 1, 1) if self.small_images else (7, 2, 3)
        conv = Downsample(
            self.channels[0],
            numerics,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            spiking=False,
            use_bias=False,
            kernel_init=head_init,
            name="stem",
        )
        y = conv(x, train)
        if self.small_images:
            return y
        border: Any = ((1, 1), (1, 1))  # Of which Flax's annotation knows names alone.
        return nn.max_pool(y, (3, 3), (2, 2), border)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores, averaged over the time steps.

        Args:
          images: (B, H, W, C), shown in every time step, or (B, T, H, W, C) frames.
          train: uses batch statistics and updates the running ones (collection "batch_stats").

        Returns:
          (B, num_classes) logits.

        Raises:
          ValueError: a field is out of range, or the images do not fit the network.
        """
        return mean_over_time(self.steps(images, train))

    def steps(self, images: jax.Array, train: bool = False) -> jax.Array:
        """As calling it, but the scores of every time step: (B, T, num_classes)."""
        _, logits = self._forward(images, train)
        return logits.reshape(-1, self.timesteps, self.num_classes)

    def features(self, images: jax.Array, train: bool = False) -> dict[ResformerStage, jax.Array]:
        """The real-valued residual stream: (B * T, h, w, c) after the stem and each stage."""
        return self._forward(images, train)[0]
