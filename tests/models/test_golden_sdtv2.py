"""The published Spike-driven Transformer V2's own numbers, in float64 (tests/golden/sdtv2.py)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from qsdt_jax.core.spikes import Spikes
from qsdt_jax.interop import from_torch, to_torch
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.losses.classification import cross_entropy
from tests.golden.sdtv2 import VARIANTS, Variant, digest, golden, gradient_row, row

TOLERANCE = 1e-10  # Relative to the largest entry of each array.
# Before a batch norm the true gradient of a bias is zero, and that of a scale nearly: rounding is left.
BEFORE_NORM = ("_conv.bias", ".body.2.2.bias", ".body.2.2.weight")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def assert_met(found, expected, name, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    assert np.shape(found) == np.shape(expected), name
    deviation = np.abs(np.asarray(found) - expected).max() / scale
    assert deviation <= TOLERANCE, f"{name}: {deviation}"


def with_rates(call: Callable[[], Any]) -> tuple[Any, jax.Array]:
    """What a forward pass gives, and the share of ones of each layer of neurons, in order."""
    rates = []

    def record(inner, args, kwargs, context):
        y = inner(*args, **kwargs)
        if isinstance(context.module, SpikingNeuron):
            assert isinstance(y, Spikes)
            assert y.levels == 1 and y.step == 1
            rates.append(jnp.mean(y.counts))
        return y

    with nn.intercept_methods(record):
        given = call()
    return given, jnp.stack(rates)


def in_torch_layout(maps: jax.Array, variant: Variant) -> np.ndarray:
    """(B * T, h, w, C) -> (T, B, C, h, w)."""
    by_image = np.asarray(maps).reshape(-1, variant.timesteps, *maps.shape[1:])
    return by_image.transpose(1, 0, 4, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_evaluation_forward(name):
    variant = VARIANTS[name]
    variables = from_torch(variant.model, variant.weights())
    seen: dict[str, Any] = {
        "capture_intermediates": lambda _, method: method == "features",
        "mutable": ["intermediates"],
    }

    @jax.jit
    def forward(variables, images):
        return with_rates(lambda: variant.model.apply(variables, images, **seen))

    (logits, captured), rates = forward(variables, variant.test_images())
    assert_met(logits, golden()[f"{name}/eval/logits"], "logits")
    assert_met(rates, golden()[f"{name}/eval/rates"], "rates")
    (features,) = captured["intermediates"]["features"]
    for stage, maps in features.items():
        found = digest(variant, f"feature/{stage}", in_torch_layout(maps, variant))
        assert_met(found, golden()[f"{name}/eval/feature/{stage}"], stage)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_training_forward_every_gradient_and_statistic(name):
    variant = VARIANTS[name]
    model, (images, labels) = variant.model, variant.batch()
    variables = from_torch(model, variant.weights())

    def loss(params):
        method = "both_heads" if variant.two_heads else "__call__"
        given = {**variables, "params": params}
        (logits, updates), rates = with_rates(
            lambda: model.apply(given, images, train=True, mutable=["batch_stats"], method=method)
        )
        by_head = logits if variant.two_heads else (logits,)
        taught = jnp.asarray(variant.teacher_classes())
        losses = [cross_entropy(by_head[0], jnp.asarray(labels), label_smoothing=0.1).mean()]
        losses += [cross_entropy(other, taught).mean() for other in by_head[1:]]
        return sum(losses) / len(losses), (by_head, rates, updates["batch_stats"])

    (value, (by_head, rates, after)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"]
    )
    assert_met(value, golden()[f"{name}/train/loss"], "loss")
    assert_met(rates, golden()[f"{name}/train/rates"], "rates")
    for logits, head in zip(by_head, ("logits", "logits_kd"), strict=False):
        assert_met(logits, golden()[f"{name}/train/{head}"], head)
    found = to_torch({"params": grads, "batch_stats": after})
    of_kind: dict[str, Any] = {
        "after": (sorted(tensor for tensor in found if ".running_" in tensor), row),
        "grad": (sorted(tensor for tensor in found if ".running_" not in tensor), gradient_row),
    }
    for kind, (names, row_of) in of_kind.items():
        expected = golden()[f"{name}/train/{kind}"]
        largest = np.abs(expected[:, :4]).max()
        for tensor, wanted in zip(names, expected, strict=True):
            noisy = kind == "grad" and tensor.endswith(BEFORE_NORM)
            scale = largest if noisy else None
            assert_met(row_of(variant, tensor, found[tensor]), wanted, f"{kind} of {tensor}", scale)


def test_names_are_the_published_ones_and_go_both_ways():
    variant = VARIANTS["t2_kd"]
    weights = variant.weights()
    assert len(weights) == 694  # As many as the published code has, its counters of batches aside.
    assert not any("layer_scale" in name or name.endswith(".alpha") for name in weights)
    assert weights["head_kd.weight"].shape == (10, 40) and weights["head_kd.bias"].shape == (10,)
    counted = {**weights, "ConvBlock1_1.0.bn1.num_batches_tracked": np.array(7)}
    again = to_torch(from_torch(variant.model, counted))
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array)
