"""CAFormer: a float network of convolutions and softmax attention, here to teach.

"MetaFormer Baselines for Vision" (Yu et al., 2022) in the layout of timm's `caformer_*`. Modules bear timm's
names, "_i" in the place of ".i". Four stages: two mix tokens by separable convolutions, two by attention.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from qsdt_jax.layers.lowering import ConvGeometry, convolve

EPSILON = 1e-6  # Of every layer norm.
HEAD_WIDTH = 32
MLP_RATIO = 4
MIXERS: tuple[Literal["conv", "attention"], ...] = ("conv", "conv", "attention", "attention")

# Widths of the stages and their numbers of blocks.
CAFORMERS: dict[str, dict[str, Any]] = {
    "caformer_s18": {"channels": (64, 128, 320, 512), "depths": (3, 3, 9, 3)},
    "caformer_s36": {"channels": (64, 128, 320, 512), "depths": (3, 12, 18, 3)},
    "caformer_m36": {"channels": (96, 192, 384, 576), "depths": (3, 12, 18, 3)},
    "caformer_b36": {"channels": (128, 256, 512, 768), "depths": (3, 12, 18, 3)},
}

weight_init = nn.initializers.normal(0.02)  # timm's `trunc_normal_`, as for the head in layers/quantized.py.


class CAFormer(nn.Module):
    """The classifier, in evaluation mode: no drop path, no dropout.

    stem (stride 4) -> stages of strides 4, 8, 16, 32, each but the first down-sampling first -> mean over
    pixels -> layer norm -> MLP head.

    Attributes:
      channels, depths: of the four stages; the channels of the last two are multiples of 32.
      num_classes: outputs of the head.
      in_channels: of the image.
      dtype: operands of the products; all else is computed in float32, or float64 where this is that.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    num_classes: int = 1000
    in_channels: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (B, num_classes) of images (B, H, W, C), H and W at least 32 pixels."""
        x = Stem(self.channels[0], self.dtype, name="stem")(images)
        for i, mixer in enumerate(MIXERS):
            stage = CAFormerStage(
                self.channels[i], self.depths[i], mixer, i > 0, self.dtype, name=f"stages_{i}"
            )
            x = stage(x)
        return Head(self.num_classes, self.dtype, name="head")(x)


class Conv(nn.Module):
    """2-D convolution with a square kernel and symmetric padding, in pixels."""

    features: int
    dtype: DTypeLike
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    depthwise: bool = False
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, I) -> (N, H', W', O)."""
        groups = x.shape[-1] if self.depthwise else 1
        size = self.kernel_size
        kernel = self.param("kernel", weight_init, (size, size, x.shape[-1] // groups, self.features))
        y = _product(x, kernel, ConvGeometry(self.stride, self.padding, groups), self.dtype)
        return y + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else y


class Dense(nn.Module):
    """Dense layer on the last axis."""

    features: int
    dtype: DTypeLike
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, I) -> (N, H, W, O), or (N, I) -> (N, O)."""
        kernel = self.param("kernel", weight_init, (x.shape[-1], self.features))
        pixels = x.reshape(x.shape[0], -1, 1, x.shape[-1])
        y = _product(pixels, kernel[None, None], ConvGeometry(), self.dtype).reshape(*x.shape[:-1], -1)
        return y + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else y


class LayerNorm(nn.Module):
    """Each pixel's channels standardised, times a weight, plus a bias where there is one."""

    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) -> the same shape."""
        weight = self.param("weight", nn.initializers.ones, x.shape[-1:])
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + EPSILON) * weight
        return y + self.param("bias", nn.initializers.zeros, x.shape[-1:]) if self.use_bias else y


class StarReLU(nn.Module):
    """scale * relu(x)^2 + bias, one learned scale and bias for all channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Any shape -> the same shape."""
        scale = self.param("scale", nn.initializers.ones, (1,))
        bias = self.param("bias", nn.initializers.zeros, (1,))
        return scale * jnp.square(nn.relu(x)) + bias


class Stem(nn.Module):
    """7x7 convolution of stride 4, then a norm."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(N, H, W, I) -> (N, h, w, O), a quarter of the height and width."""
        x = images.astype(jnp.promote_types(self.dtype, jnp.float32))
        x = Conv(self.features, self.dtype, 7, stride=4, padding=2, use_bias=True, name="conv")(x)
        return LayerNorm(name="norm")(x)


class Downsampling(nn.Module):
    """A norm, then a 3x3 convolution of stride 2."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, I) -> (N, h, w, O), half of the height and width, rounded up."""
        x = LayerNorm(name="norm")(x)
        return Conv(self.features, self.dtype, 3, stride=2, padding=1, use_bias=True, name="conv")(x)


class SepConv(nn.Module):
    """Token mixer: 1x1 convolution to twice the width, StarReLU, depthwise 7x7, 1x1 back."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) -> the same shape."""
        channels = x.shape[-1]
        x = Conv(2 * channels, self.dtype, name="pwconv1")(x)
        x = StarReLU(name="act1")(x)
        x = Conv(2 * channels, self.dtype, 7, padding=3, depthwise=True, name="dwconv")(x)
        return Conv(channels, self.dtype, name="pwconv2")(x)


class SoftmaxAttention(nn.Module):
    """Token mixer: softmax(q k^T / sqrt(32)) v of heads 32 wide, and a projection."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) -> the same shape; raises ValueError where C is no multiple of 32."""
        n, height, width, channels = x.shape
        if channels % HEAD_WIDTH:
            raise ValueError(f"attention has heads of {HEAD_WIDTH} channels, which do not divide {channels}")
        qkv = Dense(3 * channels, self.dtype, name="qkv")(x)
        heads = qkv.astype(self.dtype).reshape(n, height * width, 3, -1, HEAD_WIDTH)
        q, k, v = heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]
        scores = jnp.einsum("nlhc,nmhc->nhlm", q, k, preferred_element_type=x.dtype) * HEAD_WIDTH**-0.5
        weights = jax.nn.softmax(scores).astype(self.dtype)
        y = jnp.einsum("nhlm,nmhc->nlhc", weights, v, preferred_element_type=x.dtype)
        return Dense(channels, self.dtype, name="proj")(y.reshape(x.shape))


class Mlp(nn.Module):
    """Dense layers to four times the width and back with StarReLU between, as 1x1 convolutions or not.

    The two kinds compute the same; their weights have different shapes in timm's files.
    """

    convolutions: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) -> the same shape."""
        layer, channels = Conv if self.convolutions else Dense, x.shape[-1]
        x = layer(MLP_RATIO * channels, self.dtype, name="fc1")(x)
        return layer(channels, self.dtype, name="fc2")(StarReLU(name="act")(x))


class Block(nn.Module):
    """x = r1 x + mix(norm(x)); x = r2 x + mlp(norm(x)), r1 and r2 per channel in attention stages, else 1."""

    mixer: Literal["conv", "attention"]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) -> the same shape."""
        mix = (SepConv if self.mixer == "conv" else SoftmaxAttention)(self.dtype, name="token_mixer")
        x = self._scaled(x, "res_scale1") + mix(LayerNorm(name="norm1")(x))
        mlp = Mlp(self.mixer == "conv", self.dtype, name="mlp")
        return self._scaled(x, "res_scale2") + mlp(LayerNorm(name="norm2")(x))

    def _scaled(self, x: jax.Array, name: str) -> jax.Array:
        return ResidualScale(name=name)(x) if self.mixer == "attention" else x


class ResidualScale(nn.Module):
    """A learned factor for each channel of the residual stream."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) -> the same shape."""
        return x * self.param("scale", nn.initializers.ones, x.shape[-1:])


class CAFormerStage(nn.Module):
    """Down-sampling, where there is one, and blocks."""

    features: int
    depth: int
    mixer: Literal["conv", "attention"]
    downsamples: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, I) -> (N, h, w, O)."""
        if self.downsamples:
            x = Downsampling(self.features, self.dtype, name="downsample")(x)
        for i in range(self.depth):
            x = Block(self.mixer, self.dtype, name=f"blocks_{i}")(x)
        return x


class Head(nn.Module):
    """Mean over the pixels -> norm -> MLP with a squared ReLU and a norm between its layers."""

    num_classes: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) -> (N, num_classes)."""
        x = LayerNorm(use_bias=True, name="norm")(jnp.mean(x, axis=(1, 2)))
        return MlpHead(self.num_classes, self.dtype, name="fc")(x)


class MlpHead(nn.Module):
    """Dense to four times the width -> squared ReLU -> norm -> dense."""

    num_classes: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, C) -> (N, num_classes)."""
        x = Dense(MLP_RATIO * x.shape[-1], self.dtype, use_bias=True, name="fc1")(x)
        x = LayerNorm(use_bias=True, name="norm")(jnp.square(nn.relu(x)))
        return Dense(self.num_classes, self.dtype, use_bias=True, name="fc2")(x)


def _product(x: jax.Array, kernel: jax.Array, geometry: ConvGeometry, dtype: DTypeLike) -> jax.Array:
    """A convolution of operands in `dtype`, accumulated in the type of x."""
    return convolve(x.astype(dtype), kernel.astype(dtype), geometry, x.dtype)


def caformer_macs(model: CAFormer, image_size: tuple[int, int]) -> int:
    """Multiply-accumulates of one image, those of attention included; found by tracing the network."""
    total = 0

    def count(call, args, kwargs, context):
        nonlocal total
        y, module = call(*args, **kwargs), context.module
        if context.method_name == "__call__" and isinstance(module, Conv | Dense):
            kernel = module.get_variable("params", "kernel")
            total += y.size * kernel.size // kernel.shape[-1]
        if context.method_name == "__call__" and isinstance(module, SoftmaxAttention):
            _, height, width, channels = y.shape
            total += 2 * (height * width) ** 2 * channels
        return y

    image = jax.ShapeDtypeStruct((1, *image_size, model.in_channels), jnp.float32)
    with nn.intercept_methods(count):
        jax.eval_shape(model.init, jax.random.key(0), image)
    return total
