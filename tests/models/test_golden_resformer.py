"""The published SpikingResformer's own numbers, in float64 (tests/golden/resformer.py)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from qsdt_jax.interop import from_torch, to_torch
from qsdt_jax.interop.resformer import torch_name
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.losses.classification import cross_entropy, each_step_cross_entropy
from tests.golden.baselines import assert_gradient_met, assert_map_met, assert_met, assert_tensor_met
from tests.golden.resformer import CASES, case, golden, joined

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def applied(model, variables, images, **options) -> tuple[jax.Array, dict[str, Any]]:
    """Logits (T, B, K), and what the forward pass has written; "intermediates" has the spikes."""
    options["mutable"] = ["intermediates", *options.get("mutable", ())]
    logits, written = model.apply(
        variables,
        images,
        method="steps",
        capture_intermediates=lambda module, name: name == "__call__" and isinstance(module, SpikingNeuron),
        **options,
    )
    return logits.swapaxes(0, 1), written


def rates(intermediates) -> np.ndarray:
    """The share of ones of each layer of neurons, sorted by its published name."""
    calls: Any = flatten_dict(intermediates, is_leaf=lambda path, _: path[-1:] == ("__call__",))
    return joined({torch_name(path[:-1]): np.mean(spikes.counts) for path, (spikes,) in calls.items()})


@pytest.mark.parametrize("name", [CASES[0], *map(slow, CASES[1:])])
def test_evaluation_forward(name):
    net = case(name)
    model = net.model
    variables = from_torch(model, net.weights())

    @jax.jit  # One program: the two share nearly all their work.
    def forward(variables, images):
        return applied(model, variables, images), model.apply(variables, images, method="features")

    (logits, written), features = forward(variables, net.test_images())
    assert_met(logits, golden()[f"{name}/eval/logits"], "logits")
    assert_met(rates(written["intermediates"]), golden()[f"{name}/eval/rates"], "rates")
    for stage, maps in features.items():
        by_image = np.asarray(maps).reshape(-1, model.timesteps, *maps.shape[1:])
        expected = golden()[f"{name}/eval/features/{stage}"]
        assert_map_met(net.seed, stage, by_image.transpose(1, 0, 4, 2, 3), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_training_step(name):
    """Logits, losses, every gradient and statistic, and a step whose firing rates start from zero."""
    net = case(name)
    model, (images, labels) = net.model, net.batch()
    variables = from_torch(model, net.weights())

    def loss(params, statistics):
        given = {"params": params, "batch_stats": statistics}
        logits, written = applied(model, given, images, train=True, mutable=["batch_stats"])
        each = each_step_cross_entropy(logits.swapaxes(0, 1), labels, 0.1)
        return jnp.mean(cross_entropy(jnp.mean(logits, 0), labels, 0.1)), (logits, jnp.mean(each), written)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    params = variables["params"]
    (value, (logits, each, written)), grads = step(params, variables["batch_stats"])
    expected = {
        key.removeprefix(f"{name}/train/"): array
        for key, array in golden().items()
        if key.startswith(f"{name}/train/")
    }
    assert_met(value, expected["loss"], "loss")
    assert_met(each, expected["loss_tet"], "loss of each step")
    assert_met(logits, expected["logits"], "logits")
    assert_met(rates(written["intermediates"]), expected["rates"], "rates")

    found = to_torch({"params": grads, "batch_stats": written["batch_stats"]})
    assert found.keys() == net.weights().keys()
    firing = {key: found.pop(key) for key in list(found) if ".firing_rate_" in key}
    assert_met(joined(firing), expected["firing"], "firing rates")
    after = sorted(key for key in found if ".running_" in key)
    for key, wanted in zip(after, expected["after"], strict=True):
        assert_tensor_met(net.seed, key, found[key], wanted)
    for key, wanted in zip(sorted(found.keys() - after), expected["grad"], strict=True):
        assert_gradient_met(net.seed, key, found[key], wanted)

    blank = {key: array * (".firing_rate_" not in key) for key, array in net.weights().items()}
    (value, (logits, _, written)), _ = step(params, from_torch(model, blank)["batch_stats"])
    assert_met(value, golden()[f"{name}/first/loss"], "first loss")
    assert_met(logits, golden()[f"{name}/first/logits"], "first logits")
    found = to_torch({"batch_stats": written["batch_stats"]})
    firing = {key: array for key, array in found.items() if ".firing_rate_" in key}
    assert_met(joined(firing), golden()[f"{name}/first/firing"], "first firing rates")
