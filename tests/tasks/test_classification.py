"""Mixing within the training step of the classification task."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsdt_jax.data.classes import numbers
from qsdt_jax.data.mixing import mix_batch
from qsdt_jax.losses.classification import cross_entropy
from qsdt_jax.randomness import Purpose, key_for
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.train.state import create_state
from qsdt_jax.train.step import evaluation_step, train_step

CLASSES = 4


class Linear(nn.Module):
    """A classifier as small as the task allows."""

    num_classes: int = CLASSES
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool = False):
        images = nn.BatchNorm(use_running_average=not train)(images)
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


NAMES = numbers(CLASSES)
LINEAR: Any = Linear()
PLAIN = Classification(model=LINEAR, image_shape=(8, 8, 3), class_names=NAMES, label_smoothing=0.1)
MIXED = dataclasses.replace(PLAIN, mixup_alpha=0.8, cutmix_alpha=1.0)
OPTIMIZER = optax.sgd(0.1)
VARIABLES = PLAIN.init(jax.random.key(0))


def batch(rows: int = 8) -> dict:
    generator = np.random.default_rng(0)
    return {
        "image": generator.normal(size=(rows, 8, 8, 3)).astype(np.float32),
        "label": generator.integers(CLASSES, size=rows).astype(np.int32),
    }


update = jax.jit(train_step, static_argnames=("task", "optimizer", "accumulate"))


@jax.jit
def mixed_loss(rows: dict, key: jax.Array) -> jax.Array:
    """The loss of a batch that was mixed beforehand."""
    images, targets = mix_batch(
        rows["image"],
        rows["label"],
        jax.random.fold_in(key, Purpose.MIXING),
        num_classes=CLASSES,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
    )
    logits, _ = PLAIN.model.apply(VARIABLES, images, train=True, mutable=["batch_stats"])
    return jnp.mean(cross_entropy(logits, targets, 0.1))


def step(task, start: int, accumulate: int = 1, seed: int = 0) -> tuple[float, bytes]:
    """The loss of a step, and the weights after it."""
    state = create_state(VARIABLES, OPTIMIZER, ema=False).replace(step=jnp.int32(start))
    after, metrics = update(state, batch(), task=task, optimizer=OPTIMIZER, seed=seed, accumulate=accumulate)
    kernel = after.variables["params"]["Dense_0"]["kernel"]
    return float(metrics["loss"]), np.asarray(kernel).tobytes()


def test_loss_is_that_of_the_mixed_batch():
    loss_of = jax.jit(MIXED.loss)
    for seed in range(4):
        key = jax.random.key(seed)
        loss, _ = loss_of(VARIABLES, batch(), key)
        assert float(loss) == pytest.approx(float(mixed_loss(batch(), key)), rel=1e-6)


def test_each_micro_batch_is_mixed_by_itself():
    """With a key of its own, and partners of its own."""
    key = key_for(0, Purpose.STEP, 3)
    rows = batch()
    parts = [{name: x[4 * i : 4 * i + 4] for name, x in rows.items()} for i in range(2)]
    losses = [float(mixed_loss(part, jax.random.fold_in(key, i))) for i, part in enumerate(parts)]
    assert step(MIXED, 3, accumulate=2)[0] == pytest.approx(np.mean(losses), rel=1e-5)


def test_mixing_is_a_function_of_seed_and_step():
    first = [step(MIXED, s, seed=seed) for seed in (0, 1) for s in (0, 1)]
    assert first == [step(MIXED, s, seed=seed) for seed in (0, 1) for s in (0, 1)]
    assert len(set(first)) == 4


def test_without_mixing_a_step_draws_nothing():
    assert step(PLAIN, 0) == step(PLAIN, 1)
    loss, _ = PLAIN.loss(VARIABLES, batch(), jax.random.key(0))
    logits, _ = PLAIN.model.apply(VARIABLES, batch()["image"], train=True, mutable=["batch_stats"])
    assert float(loss) == float(jnp.mean(cross_entropy(logits, jnp.asarray(batch()["label"]), 0.1)))


def test_evaluation_is_not_mixed():
    rows = {**batch(), "mask": np.ones(8, np.int32)}
    for found, expected in zip(
        jax.tree.leaves(evaluation_step(VARIABLES, rows, MIXED)),
        jax.tree.leaves(evaluation_step(VARIABLES, rows, PLAIN)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
