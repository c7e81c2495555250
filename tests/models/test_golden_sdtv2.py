"""The published Spike-driven Transformer V2's own numbers, in float64 (tests/golden/sdtv2.py)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs.imagenet_sdtv2 import get_config
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.data.classes import numbers
from qsdt_jax.interop import from_torch, to_torch
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.losses.classification import cross_entropy
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.tasks.distillation import Distillation, Weights
from tests.golden.baselines import (
    assert_gradient_met,
    assert_map_met,
    assert_met,
    assert_tensor_met,
    gradient_row,
)
from tests.golden.sdtv2 import CLASSES, VARIANTS, Variant, golden

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
# Before a batch norm the true gradient of a bias is zero, and that of a scale nearly: rounding is left.
BEFORE_NORM = ("_conv.bias", ".body.2.2.bias", ".body.2.2.weight")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


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


@pytest.mark.parametrize("name", ["t1", slow("t4"), slow("t2_kd")])
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
        expected = golden()[f"{name}/eval/feature/{stage}"]
        assert_map_met(variant.seed, f"feature/{stage}", in_torch_layout(maps, variant), expected)


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
    after = sorted(tensor for tensor in found if ".running_" in tensor)
    for tensor, expected in zip(after, golden()[f"{name}/train/after"], strict=True):
        assert_tensor_met(variant.seed, tensor, found[tensor], expected)
    rows = golden()[f"{name}/train/grad"]
    largest = np.abs(rows[:, :4]).max()
    for tensor, expected in zip(sorted(found.keys() - after), rows, strict=True):
        if tensor.endswith(BEFORE_NORM):
            assert_met(gradient_row(variant.seed, tensor, found[tensor]), expected, tensor, scale=largest)
        else:
            assert_gradient_met(variant.seed, tensor, found[tensor], expected)


@pytest.mark.slow
def test_the_second_run_has_the_published_loss_and_norm_of_its_gradient():
    """What LAMB clips: half the loss of the labels and half that of the other head."""
    variant = VARIANTS["t2_kd"]
    images, labels = variant.batch()
    distill = get_config("s_t4").distill
    told: Any = lambda teacher, _: (teacher["choices"], ())  # noqa: E731
    task = Distillation(
        student=Classification(
            model=variant.model,
            image_shape=images.shape[1:],
            class_names=numbers(CLASSES),
            label_smoothing=0.1,
        ),
        teacher=told,
        teacher_variables={"choices": jax.nn.one_hot(variant.teacher_classes(), CLASSES)},
        weights=Weights(
            labels=distill.labels, fgd=distill.fgd, kd=distill.kd, kd_target=distill.kd_target, total_steps=1
        ),
    )
    variables = from_torch(variant.model, variant.weights())

    @jax.jit
    def step(params):
        batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
        given = {**variables, "params": params}
        (loss, _), grads = jax.value_and_grad(
            lambda params: task.loss({**given, "params": params}, batch, jax.random.key(0)), has_aux=True
        )(params)
        return loss, optax.tree.norm(grads)

    loss, norm = step(variables["params"])
    assert_met(loss, golden()["t2_kd/train/loss"], "loss")
    norms = golden()["t2_kd/train/grad"][:, -1]  # Of each tensor.
    assert_met(norm, np.sqrt((norms**2).sum()), "norm of the gradient")


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
