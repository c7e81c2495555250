"""The published implementation's own numbers, in float64 (tests/golden)."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.data.classes import numbers
from qsdt_jax.interop import from_torch, to_torch
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.train.optimizer import lamb
from qsdt_jax.train.schedules import warmup_cosine
from qsdt_jax.train.state import create_state
from qsdt_jax.train.step import train_step
from tests.golden.digest import digest
from tests.golden.recipe import FOLDER, draw_batch, draw_test_images, draw_weights, tiny_model

TOLERANCE = 1e-10  # Relative to the largest entry of each array.
MODEL_SEED = 1


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FOLDER / "tiny_model.npz"))


@pytest.fixture(scope="module")
def weights():
    return draw_weights(tiny_model(), MODEL_SEED)


def assert_met(found, expected, name, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    assert np.shape(found) == np.shape(expected), name
    deviation = np.abs(np.asarray(found) - expected).max() / scale
    assert deviation <= TOLERANCE, f"{name}: {deviation}"


@pytest.mark.slow
def test_evaluation_forward(golden, weights):
    model = tiny_model()
    variables = from_torch(model, weights)
    images = golden["x"].transpose(0, 2, 3, 1)

    @jax.jit  # One program: the two share nearly all their work, and by themselves each operation is one.
    def forward(variables):
        features: Any = model.apply(variables, images, method="features")
        return model.apply(variables, images), features["stage4"]

    logits, features = forward(variables)
    assert_met(logits, golden["eval/logits"], "logits")
    assert_met(np.transpose(features, (0, 3, 1, 2)), golden["eval/features"], "features")


@pytest.mark.slow
def test_training_forward_and_every_gradient(golden, weights):
    model = tiny_model()
    variables = from_torch(model, weights)
    images, labels = golden["x"].transpose(0, 2, 3, 1), golden["y"]
    task = Classification(model=model, image_shape=(32, 32, 3), class_names=numbers(10), label_smoothing=0.1)
    batch = {"image": images, "label": labels}

    def loss(params):
        value, (batch_stats, _) = task.loss({**variables, "params": params}, batch, jax.random.key(0))
        return value, batch_stats

    @jax.jit
    def forward_and_backward(params):
        given = {**variables, "params": params}
        logits, _ = model.apply(given, images, train=True, mutable=["batch_stats"])
        return jax.value_and_grad(loss, has_aux=True)(params), logits

    ((value, batch_stats), grads), logits = forward_and_backward(variables["params"])
    assert_met(value, golden["train/loss"], "loss")
    assert_met(logits, golden["train/logits"], "training logits")

    after = to_torch({"params": variables["params"], "batch_stats": batch_stats})
    expected_stats = {k.removeprefix("after/"): v for k, v in golden.items() if k.startswith("after/")}
    for name, expected in expected_stats.items():
        assert_met(after[name], expected, name)

    found = to_torch({"params": grads, "batch_stats": batch_stats})
    expected_grads = {k.removeprefix("grad/"): v for k, v in golden.items() if k.startswith("grad/")}
    assert expected_grads.keys() | expected_stats.keys() == found.keys()
    largest = max(np.abs(v).max() for v in expected_grads.values())
    for name, expected in expected_grads.items():
        # The true gradient of a bias that stands before a batch norm is zero: the file holds noise.
        before_norm = name.endswith(("_conv.bias", ".body.2.2.bias"))
        assert_met(digest(found[name]), expected, name, largest if before_norm else None)


@pytest.mark.slow
def test_training_run_of_twelve_steps():
    """LAMB, warm-up and cosine, label smoothing, clipping and EMA, step by step."""
    expected = np.load(FOLDER / "tiny_trajectory.npz")
    recipe = json.loads(str(expected["recipe"]))
    model = tiny_model()
    variables = from_torch(model, draw_weights(model, recipe["seed"]))
    steps_per_epoch = recipe["spe"]
    schedule = warmup_cosine(
        recipe["lr"], recipe["warmup_epochs"] * steps_per_epoch, recipe["epochs"] * steps_per_epoch
    )
    task = Classification(model=model, image_shape=(32, 32, 3), class_names=numbers(10), label_smoothing=0.1)
    optimizer = lamb(schedule, weight_decay=0.05)
    step = jax.jit(functools.partial(train_step, task=task, optimizer=optimizer, ema_decay=0.99996))
    state = create_state(variables, optimizer, ema=True)
    for i in range(recipe["steps"]):
        images, labels = draw_batch(recipe["seed"], i, recipe["batch"])
        state, metrics = step(state, {"image": jnp.asarray(images), "label": jnp.asarray(labels)})
        assert_met(metrics["loss"], expected["losses"][i], f"loss of step {i}")
        assert_met(metrics["grad_norm"], expected["grad_norm"][i], f"gradient norm of step {i}")
        assert float(schedule(i)) == pytest.approx(float(expected["lrs"][i]), rel=1e-12)

    images = draw_test_images(recipe["seed"])
    forward = jax.jit(model.apply)
    assert_met(forward(state.variables, images), expected["final_logits"], "final logits")
    assert state.ema is not None
    assert_met(forward(state.ema, images), expected["ema_logits"], "EMA logits")
    final = to_torch(state.variables)
    for key in expected.files:
        if key.startswith("final/"):
            name = key.removeprefix("final/")
            assert_met(final[name], expected[key], name)
