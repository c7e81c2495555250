"""The attention of SpikingResformer against NumPy loops over heads, and the guards of its firing rates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.layers.batch_norm import EPSILON
from qsdt_jax.layers.dssa import DSSA, GWFFN
from qsdt_jax.layers.numerics import Numerics

HEADS, CHANNELS, PATCH = 2, 6, 2


def numerics(timesteps: int = 1) -> Numerics:
    neuron = make_neuron(
        "lif", levels=1, timesteps=timesteps, reset="hard", surrogate="arctan", decay_input=True
    )
    return Numerics(bits=32, neuron=neuron, dtype=jnp.float64, param_dtype=jnp.float64)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def drawn(module, x) -> dict:
    """Variables with another number in each place, such that neurons fire."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, True))
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: generator.uniform(0.2, 0.9, leaf.shape), dict(shapes))


def by_hand(variables, x, tokens: int) -> np.ndarray:
    """One image (H, W, C) at one time step, in evaluation, where a neuron fires at an input of 2."""
    params, stats = variables["params"], variables["batch_stats"]

    def normalized(y, name):
        scale, bias = params[name]["scale"], params[name]["bias"]
        return (y - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + EPSILON) * scale + bias

    spikes = (x >= 2).astype(float)
    kernel, width = params["patch_conv"]["kernel"], CHANNELS // HEADS
    pooled = []
    for i in range(x.shape[0] // PATCH):
        for j in range(x.shape[1] // PATCH):
            patch = spikes[i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH]
            pooled.append(normalized(np.einsum("abc,abcd->d", patch, kernel), "patch_bn"))
    pooled, s = np.stack(pooled), spikes.reshape(-1, CHANNELS)
    z = np.zeros_like(s)
    for h in range(HEADS):
        y1 = pooled[:, 2 * width * h :][:, :width]
        y2 = pooled[:, 2 * width * h + width :][:, :width]
        own = slice(width * h, width * (h + 1))
        attention = y1 @ s[:, own].T / np.sqrt(stats["rate_x"][h] * width) >= 2
        z[:, own] = attention.T @ y2 / np.sqrt(stats["rate_attn"][h] * tokens) >= 2
    return x + normalized(z @ params["proj_conv"]["kernel"][0, 0], "proj_bn").reshape(x.shape)


@pytest.mark.parametrize("tokens", [0, 9])
def test_attention_follows_the_formula(tokens):
    """Rows and columns beyond the last whole patch are not pooled; they attend all the same."""
    x = np.random.default_rng(0).normal(1.5, 1.5, (2, 5, 7, CHANNELS))
    module = DSSA(numerics(), HEADS, PATCH, tokens)
    variables = drawn(module, x)
    y, written = module.apply(variables, x, False, capture_intermediates=True, mutable=["intermediates"])
    for name in ("neuron", "attn_neuron", "out_neuron"):
        (spikes,) = written["intermediates"][name]["__call__"]
        assert 0.05 < np.mean(spikes.counts) < 0.95, name
    for image, found in zip(x, y, strict=True):
        np.testing.assert_allclose(found, by_hand(variables, image, tokens or 2 * 3), rtol=1e-12)


def test_rates_move_before_they_are_used():
    x = np.random.default_rng(0).normal(1.5, 1.5, (2, 4, 4, CHANNELS))
    module = DSSA(numerics(), HEADS, PATCH)
    variables = drawn(module, x)
    _, moved = module.apply(variables, x, True, mutable=["batch_stats"])
    batch = (x >= 2).reshape(-1, HEADS, CHANNELS // HEADS).mean((0, 2))
    before = variables["batch_stats"]["rate_x"]
    np.testing.assert_allclose(moved["batch_stats"]["rate_x"], 0.999 * before + 0.001 * batch, rtol=1e-12)
    frozen = DSSA(dataclasses.replace(numerics(), freeze_statistics=True), HEADS, PATCH)
    _, kept = frozen.apply(variables, x, True, mutable=["batch_stats"])
    assert jax.tree.all(jax.tree.map(np.array_equal, kept["batch_stats"], variables["batch_stats"]))
    zeros = {**variables["batch_stats"], "rate_x": np.array([0, 0.4])}
    _, moved = module.apply({**variables, "batch_stats": zeros}, x, True, mutable=["batch_stats"])
    expected = [0.001 * batch[0], 0.999 * 0.4 + 0.001 * batch[1]]
    np.testing.assert_allclose(moved["batch_stats"]["rate_x"], expected, rtol=1e-12)
    zeros = {**variables["batch_stats"], "rate_x": np.zeros(2)}
    _, moved = module.apply({**variables, "batch_stats": zeros}, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(moved["batch_stats"]["rate_x"], batch, rtol=1e-12)


@pytest.mark.parametrize("train", [False, True])
def test_a_head_that_never_fires_gives_finite_numbers(train):
    """As of a new network in evaluation, whose rates are zero, and of a silent head in training."""
    x = np.random.default_rng(0).normal(1.5, 1.5, (1, 4, 4, CHANNELS))
    x[..., : CHANNELS // HEADS] = -1
    module = DSSA(numerics(), HEADS, PATCH)
    variables = drawn(module, x)
    variables["batch_stats"] |= {"rate_x": np.zeros(HEADS), "rate_attn": np.zeros(HEADS)}

    def total(params, x):
        given = {**variables, "params": params}
        y, written = module.apply(given, x, train, mutable=["batch_stats"])
        return jnp.sum(y**2), written

    (value, written), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(variables["params"], x)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(grad)) for grad in jax.tree.leaves(grads))
    assert written["batch_stats"]["rate_x"][0] == 0
    assert (written["batch_stats"]["rate_x"][1] > 0) == train


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (DSSA(numerics(), 4, PATCH), "4 heads do not divide 6 channels"),
        (DSSA(numerics(), HEADS, 5), "4x4 tokens hold no patch of 5x5"),
        (GWFFN(numerics(), 5), "groups of 5 channels do not divide 24"),
    ],
)
def test_what_does_not_divide_is_refused(module, told):
    with pytest.raises(ValueError, match=told):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 4, 4, CHANNELS)), True))
