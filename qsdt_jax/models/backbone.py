"""The backbone: four stages of conv blocks and spike-driven transformer blocks."""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from qsdt_jax.core.neurons import Neuron, NeuronKind, Reset, make_neuron
from qsdt_jax.core.surrogates import Surrogate
from qsdt_jax.layers.attention import Attention
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.layers.downsample import Downsample
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.layers.sepconv import ConvBlock
from qsdt_jax.layers.spiking import Rectify
from qsdt_jax.layers.tokens import valid_tokens
from qsdt_jax.layers.transformer_block import TransformerBlock
from qsdt_jax.models.frames import frames_of

STRIDE = 16  # Pixels of the image per pixel of the last two stages.
STEM = "downsample1_1"  # Name of the layer that sees the image.
Stage = Literal["stem", "stage1", "stage2", "stage3", "stage4"]


class Backbone(nn.Module):
    """The network without its head (published code).

    Spike-driven Transformer V2 is these layers with other attributes, `models.sdtv2`.

    stem (C1/2) -> conv block -> down (C1) -> conv block -> down (C2) -> two conv blocks -> down (C3) -> 3/4
    of the transformer blocks, rounded down -> down (C4, stride 1) -> the others.

    Attributes:
      channels: C1..C4.
      depth: number of transformer blocks, at least 2; the published sizes have 8.
      num_heads: attention heads; must divide C3 and C4.
      mlp_ratio: widening in conv blocks and MLPs.
      in_channels: channels of the image.
      bits: weight bits 1..8, 32 for float; bits_rules: of the layers that differ.
      levels: D, largest spike count; timesteps: T.
      neuron, decay, decay_input, reset, surrogate: see `core.neurons`; decay None takes the neuron's usual
        value. The neuron "relu" is none: with it, 32 bits and softmax attention this is the float twin.
      attention: "spiking" or "softmax", see `layers.attention.QSDSA`.
      rectify: "bn" (published code) or "norm", see `layers.spiking.HeadRectify`.
      attention_scale: factor on q (k^T v).
      attention_tokens: token count N0 that the factor is meant for, that of the images of the training: an
        image of N tokens has N0 / N times the factor. 0 for the same factor on any image (published code).
      attention_gain, attention_threshold: of the neuron behind that product: factor on the value of a spike,
        and its own threshold, None for the one of the others.
      qkv_bias_init: initial bias of the batch norms before the neurons of q, k and v.
      layer_scale: whether transformer blocks have layer scales; layer_scale_init: their initial value.
      drop_path: probability at the last block, rising linearly from 0 at the first.
      norm_group: images per group of batch-norm statistics, 0 for the whole batch.
      freeze_statistics: see `layers.numerics.Numerics`.
      remat: what a training keeps for the backward pass, which computes the rest again: less memory, more
        time, the same numbers to rounding. "none" computes nothing again, "blocks" keeps of each block and of
        each downsampling its input alone, "spikes" of each neuron one byte and of each batch norm the vectors
        of its statistics.
      exact_evaluation, dtype, param_dtype, spike_dtype: see `layers.numerics.Numerics`.
    """

    channels: tuple[int, int, int, int] = (64, 128, 256, 360)
    depth: int = 8
    num_heads: int = 8
    mlp_ratio: int = 4
    in_channels: int = 3
    bits: int = 4
    bits_rules: tuple[BitsRule, ...] = ()
    levels: int = 4
    timesteps: int = 1
    neuron: NeuronKind | Literal["relu"] = "ie_lif"
    decay: float | None = None
    decay_input: bool = False
    reset: Reset = "soft"
    surrogate: Surrogate = "straight_through"
    rectify: Rectify = "bn"
    attention: Attention = "spiking"
    attention_scale: float = 0.25
    attention_tokens: int = 0
    attention_gain: float = 2.0
    attention_threshold: float | None = None
    qkv_bias_init: float = 0.0
    layer_scale: bool = True
    layer_scale_init: float = 1e-6
    drop_path: float = 0.0
    norm_group: int = 0
    freeze_statistics: bool = False
    remat: Remat = "none"
    exact_evaluation: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    spike_dtype: DTypeLike | None = None

    @property
    def numerics(self) -> Numerics:
        """The numerical choices shared by all layers; raises ValueError for values out of range."""
        return Numerics(
            bits=self.bits,
            bits_rules=self.bits_rules,
            neuron=self._neuron(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            spike_dtype=self.spike_dtype,
            norm_group=self.norm_group,
            freeze_statistics=self.freeze_statistics,
            exact_evaluation=self.exact_evaluation,
        )

    @property
    def stage_depths(self) -> tuple[int, int]:
        """Number of transformer blocks of stages 3 and 4."""
        first = self.depth * 3 // 4
        return first, self.depth - first

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the transformer blocks, first to last."""
        in_stage3, in_stage4 = self.stage_depths
        return (*(f"block3_{i}" for i in range(in_stage3)), *(f"block4_{i}" for i in range(in_stage4)))

    def _neuron(self) -> Neuron | None:
        if self.neuron == "relu":
            if self.timesteps != 1:
                raise ValueError(f"a relu has no time steps: timesteps must be 1, got {self.timesteps}")
            return None
        return make_neuron(
            self.neuron,
            levels=self.levels,
            timesteps=self.timesteps,
            decay=self.decay,
            decay_input=self.decay_input,
            reset=self.reset,
            surrogate=self.surrogate,
        )

    def setup(self):
        if len(self.channels) != 4 or min(self.channels) < 1 or self.channels[0] % 2:
            raise ValueError(f"channels are four positive widths, the first even; got {self.channels}")
        if self.depth < 2:
            raise ValueError(f"depth must be at least 2, got {self.depth}")
        for name in ("num_heads", "mlp_ratio", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, choices in (("rectify", Rectify), ("attention", Attention), ("remat", Remat)):
            allowed = get_args(choices)
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if self.attention_tokens < 0:
            raise ValueError(f"attention_tokens must not be negative, got {self.attention_tokens}")
        numerics, ratio = self.numerics, self.mlp_ratio
        c1, c2, c3, c4 = self.channels
        self.downsample1_1 = Downsample(c1 // 2, numerics, kernel_size=7, padding=3, spiking=False)
        self.conv_block1_1 = ConvBlock(numerics, ratio)
        self.downsample1_2 = Downsample(c1, numerics)
        self.conv_block1_2 = ConvBlock(numerics, ratio)
        self.downsample2 = Downsample(c2, numerics)
        self.conv_block2_1 = ConvBlock(numerics, ratio)
        self.conv_block2_2 = ConvBlock(numerics, ratio)
        self.downsample3 = Downsample(c3, numerics)
        blocks = [
            TransformerBlock(
                numerics,
                self.num_heads,
                ratio,
                self.attention,
                self.attention_scale,
                self.rectify,
                self.layer_scale_init,
                self.drop_path * i / (self.depth - 1),
                self.attention_tokens,
                self.attention_gain,
                self.attention_threshold,
                self.layer_scale,
                self.qkv_bias_init,
            )
            for i in range(self.depth)
        ]
        in_stage3, _ = self.stage_depths
        self.block3 = blocks[:in_stage3]
        self.downsample4 = Downsample(c4, numerics, stride=1)
        self.block4 = blocks[in_stage3:]

    def features(
        self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> dict[Stage, jax.Array]:
        """The real-valued residual stream after each stage.

        Args:
          images: (B, H, W, C), shown in every time step, or (B, T, H, W, C) frames; H and W multiples
            of 16.
          train: uses batch statistics and updates the running ones (collection "batch_stats").
          sizes: (B, 2) height and width of what is image, at the top left; the rest is padding, to which no
            token attends. None: all is image.

        Returns:
          (B * T, h, w, c) per stage, at strides 2, 4, 8, 16, 16.

        Raises:
          ValueError: the images have another rank, channel count, frame count or size.
        """
        x = self.frames(images)
        valid = None if sizes is None else self._valid(sizes, x.shape[1:3])
        call = functools.partial(call_block, self.remat)
        x = call(self.downsample1_1, x, train)
        stem = x = call(self.conv_block1_1, x, train)
        x = call(self.downsample1_2, x, train)
        stage1 = x = call(self.conv_block1_2, x, train)
        x = call(self.downsample2, x, train)
        for block in (self.conv_block2_1, self.conv_block2_2):
            x = call(block, x, train)
        stage2 = x
        x = call(self.downsample3, x, train)
        for block in self.block3:
            x = call(block, x, train, valid)
        stage3 = x
        x = call(self.downsample4, x, train)
        for block in self.block4:
            x = call(block, x, train, valid)
        return {"stem": stem, "stage1": stage1, "stage2": stage2, "stage3": stage3, "stage4": x}

    def _valid(self, sizes: jax.Array, pixels: tuple[int, ...]) -> jax.Array:
        """(B * T, H / 16, W / 16), the tokens inside each frame."""
        valid = valid_tokens(sizes, STRIDE, (pixels[0] // STRIDE, pixels[1] // STRIDE))
        return jnp.repeat(valid, self.timesteps, axis=0)

    def frames(self, images: jax.Array) -> jax.Array:
        """(B * T, H, W, C) in the real dtype, the time steps of an image next to each other."""
        images = frames_of(images, self.timesteps, self.in_channels)
        height, width = images.shape[1:3]
        if height % STRIDE or width % STRIDE or not height or not width:
            raise ValueError(f"height and width must be multiples of {STRIDE}, got {height}x{width}")
        return images.astype(self.numerics.real_dtype)
