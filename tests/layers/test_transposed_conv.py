"""The transposed convolution against PyTorch's numbers, and of quantised weights and spikes against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.lsq import quantize_by_bits
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.transposed_conv import TransposedConv
from tests.golden.recipe import FOLDER


def transposed(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x (N, H, W, I) by kernel (I, O, 2, 2), pixel by pixel."""
    n, height, width, _ = x.shape
    y = np.zeros((n, 2 * height, 2 * width, kernel.shape[1]))
    for i in range(2 * height):
        for j in range(2 * width):
            y[:, i, j] = x[:, i // 2, j // 2] @ kernel[:, :, i % 2, j % 2] + bias
    return y


@pytest.mark.parametrize("train", [False, True])
def test_real_numbers_as_in_pytorch(train):
    with np.load(FOLDER / "resize.npz") as file:
        x, kernel, bias, expected = (
            file[name] for name in ("x", "transposed/weight", "transposed/bias", "transposed/out")
        )
    with jax.enable_x64(True):
        layer = TransposedConv(4, Numerics(bits=32, dtype=jnp.float64, param_dtype=jnp.float64))
        own = kernel.transpose(0, 2, 3, 1).reshape(1, 1, 3, 16)
        variables = {"params": {"conv": {"kernel": own}, "bias": bias}}
        y = layer.apply(variables, jnp.asarray(x.transpose(0, 2, 3, 1)), train)
    np.testing.assert_allclose(np.transpose(y, (0, 3, 1, 2)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("train", [False, True])
def test_spikes_and_quantised_weights(train):
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 5, (2, 3, 5, 6)).astype(np.float32)
    layer = TransposedConv(4, Numerics(bits=4))
    variables = layer.init(jax.random.key(0), Spikes(jnp.asarray(counts), 0.25, 4), False)
    bias = generator.standard_normal(4).astype(np.float32)
    params = {**variables["params"], "bias": jnp.asarray(bias)}
    conv = params["conv"]
    assert conv["step_size"].shape == (16,)
    weight = quantize_by_bits(conv["kernel"], conv["step_size"], 4)
    dequantized = np.asarray(weight.integers * weight.scale).reshape(6, 2, 2, 4).transpose(0, 3, 1, 2)
    y = layer.apply({"params": params}, Spikes(jnp.asarray(counts), 0.25, 4), train)
    np.testing.assert_allclose(y, transposed(counts / 4, dequantized, bias), rtol=1e-5, atol=1e-5)
