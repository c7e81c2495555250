"""Each layer of CAFormer, and the whole, against NumPy in float64 on tensors as PyTorch has them.

The references know neither Flax nor JAX: images are (C, H, W), weights (O, I, h, w) or (O, I).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from qsdt_jax.models import caformer
from qsdt_jax.models.caformer import CAFORMERS, CAFormer, caformer_macs

GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# --- References ---


def convolution(x, weight, bias=None, stride=1, padding=0, groups=1):
    """Output pixel by output pixel."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    outputs, per_group, k, _ = weight.shape
    height, width = ((side - k) // stride + 1 for side in x.shape[1:])
    y = np.zeros((outputs, height, width))
    for o in range(outputs):
        first = o // (outputs // groups) * per_group
        for i in range(height):
            for j in range(width):
                patch = x[first : first + per_group, i * stride : i * stride + k, j * stride : j * stride + k]
                y[o, i, j] = np.sum(patch * weight[o])
    return y if bias is None else y + bias[:, None, None]


def layer_norm(x, weight, bias=0.0):
    """Over the first axis, the channels."""
    mean, variance = np.mean(x, axis=0), np.var(x, axis=0)
    shape = (-1,) + (1,) * (x.ndim - 1)
    bias = np.reshape(bias, shape) if np.ndim(bias) else bias
    return (x - mean) / np.sqrt(variance + 1e-6) * weight.reshape(shape) + bias


def star_relu(x, t, name):
    return t[f"{name}.scale"] * np.maximum(x, 0) ** 2 + t[f"{name}.bias"]


def sep_conv(x, t, name):
    x = star_relu(convolution(x, t[f"{name}.pwconv1.weight"]), t, f"{name}.act1")
    x = convolution(x, t[f"{name}.dwconv.weight"], padding=3, groups=len(x))
    return convolution(x, t[f"{name}.pwconv2.weight"])


def attention(x, t, name):
    """Head by head and query by query."""
    channels = len(x)
    tokens = x.reshape(channels, -1).T
    q, k, v = np.split(tokens @ t[f"{name}.qkv.weight"].T, 3, axis=1)
    y = np.zeros_like(tokens)
    for start in range(0, channels, 32):
        head = slice(start, start + 32)
        for i, query in enumerate(q[:, head]):
            weights = np.exp(k[:, head] @ query / np.sqrt(32))
            y[i, head] = weights @ v[:, head] / np.sum(weights)
    return (y @ t[f"{name}.proj.weight"].T).T.reshape(x.shape)


def mlp(x, t, name):
    first, second = (t[f"{name}.fc{i}.weight"].reshape(*t[f"{name}.fc{i}.weight"].shape[:2]) for i in (1, 2))
    pixels = x.reshape(len(x), -1)
    return (second @ star_relu(first @ pixels, t, f"{name}.act")).reshape(x.shape)


def block(x, t, name):
    mixer = attention if f"{name}.token_mixer.qkv.weight" in t else sep_conv
    one = np.ones(len(x))
    r1, r2 = (t.get(f"{name}.res_scale{i}.scale", one)[:, None, None] for i in (1, 2))
    x = r1 * x + mixer(layer_norm(x, t[f"{name}.norm1.weight"]), t, f"{name}.token_mixer")
    return r2 * x + mlp(layer_norm(x, t[f"{name}.norm2.weight"]), t, f"{name}.mlp")


def network(x, t, depths):
    """Logits (K,) of one image (3, H, W)."""
    x = convolution(x, t["stem.conv.weight"], t["stem.conv.bias"], stride=4, padding=2)
    x = layer_norm(x, t["stem.norm.weight"])
    for stage, depth in enumerate(depths):
        if stage:
            down = f"stages.{stage}.downsample"
            x = layer_norm(x, t[f"{down}.norm.weight"])
            x = convolution(x, t[f"{down}.conv.weight"], t[f"{down}.conv.bias"], stride=2, padding=1)
        for i in range(depth):
            x = block(x, t, f"stages.{stage}.blocks.{i}")
    x = layer_norm(x.mean((1, 2)), t["head.norm.weight"], t["head.norm.bias"])
    x = np.maximum(t["head.fc.fc1.weight"] @ x + t["head.fc.fc1.bias"], 0) ** 2
    x = layer_norm(x, t["head.fc.norm.weight"], t["head.fc.norm.bias"])
    return t["head.fc.fc2.weight"] @ x + t["head.fc.fc2.bias"]


# --- Tests ---


def draw(module: nn.Module, shape: tuple[int, ...]):
    """An input (1, H, W, C), the module's output for it, and its tensors in PyTorch's names and layout."""
    x = GENERATOR.normal(size=shape)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: GENERATOR.normal(0.3, 0.5, leaf.shape), shapes)
    y = jax.jit(module.apply)(variables, x)
    return x, np.asarray(y), torch_tensors(variables["params"])


def torch_tensors(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    tensors = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            inner = name.replace("stages_", "stages.").replace("blocks_", "blocks.")
            tensors |= torch_tensors(value, f"{prefix}{inner}.")
        elif name == "kernel":
            axes = (3, 2, 0, 1) if value.ndim == 4 else (1, 0)
            tensors[f"{prefix}weight"] = np.transpose(value, axes)
        else:
            tensors[prefix + name] = value
    return tensors


def image_of(x):
    """(1, H, W, C) -> (C, H, W)."""
    return np.asarray(x)[0].transpose(2, 0, 1)


def check(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def named(tensors, name):
    return {f"{name}.{key}": value for key, value in tensors.items()}


def test_stem_of_a_size_that_stride_4_does_not_divide():
    x, y, t = draw(caformer.Stem(5, jnp.float64), (1, 18, 13, 3))
    expected = convolution(image_of(x), t["conv.weight"], t["conv.bias"], stride=4, padding=2)
    check(image_of(y), layer_norm(expected, t["norm.weight"]))


def test_down_sampling_of_odd_sizes():
    x, y, t = draw(caformer.Downsampling(6, jnp.float64), (1, 5, 4, 3))
    normed = layer_norm(image_of(x), t["norm.weight"])
    check(image_of(y), convolution(normed, t["conv.weight"], t["conv.bias"], stride=2, padding=1))


def test_layer_norm_of_channels_that_hardly_vary():
    """The epsilon counts: 1e-6."""
    x = 3 + 1e-3 * GENERATOR.normal(size=(1, 2, 2, 4))
    module = caformer.LayerNorm(use_bias=True)
    t = {"weight": GENERATOR.normal(size=4), "bias": GENERATOR.normal(size=4)}
    check(image_of(module.apply({"params": t}, x)), layer_norm(image_of(x), t["weight"], t["bias"]))


def test_separable_convolution():
    x, y, t = draw(caformer.SepConv(jnp.float64), (1, 5, 4, 3))
    check(image_of(y), sep_conv(image_of(x), named(t, "m"), "m"))


def test_attention():
    x, y, t = draw(caformer.SoftmaxAttention(jnp.float64), (1, 2, 3, 64))
    check(image_of(y), attention(image_of(x), named(t, "m"), "m"))


@pytest.mark.parametrize("convolutions", [True, False])
def test_mlp(convolutions):
    x, y, t = draw(caformer.Mlp(convolutions, jnp.float64), (1, 2, 3, 4))
    assert t["fc1.weight"].shape == ((16, 4, 1, 1) if convolutions else (16, 4))
    check(image_of(y), mlp(image_of(x), named(t, "m"), "m"))


@pytest.mark.parametrize(("mixer", "channels"), [("conv", 3), ("attention", 32)])
def test_block(mixer, channels):
    x, y, t = draw(caformer.Block(mixer, jnp.float64), (1, 3, 2, channels))
    assert ("res_scale2.scale" in t) == (mixer == "attention")
    check(image_of(y), block(image_of(x), named(t, "b"), "b"))


def test_the_whole_network():
    depths = (1, 1, 1, 2)
    model = CAFormer((4, 8, 32, 64), depths, num_classes=5, dtype=jnp.float64)
    x, y, t = draw(model, (2, 32, 40, 3))
    for logits, image in zip(y, x, strict=True):
        check(logits, network(image.transpose(2, 0, 1), t, depths))


def test_heads_of_32_channels_must_fit():
    with pytest.raises(ValueError, match="heads of 32 channels, which do not divide 40"):
        draw(caformer.SoftmaxAttention(jnp.float64), (1, 1, 1, 40))


@pytest.mark.parametrize(
    ("name", "millions", "gmacs"), [("caformer_s18", 26.3, 4.1), ("caformer_b36", 98.8, 23.2)]
)
def test_published_sizes(name, millions, gmacs):
    """Parameters as published by timm, operations by the paper, both with the head and at 224x224."""
    model = CAFormer(**CAFORMERS[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == millions
    assert round(caformer_macs(model, (224, 224)) / 1e9, 1) == gmacs
