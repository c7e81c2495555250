"""A step of a small task whose gradient is known: means over micro-batches, and the moving average."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsdt_jax.data.augment import ERASED_BOX, NOISE_KEY
from qsdt_jax.data.images import Normalization, normalize
from qsdt_jax.data.inputs import erase
from qsdt_jax.evaluate.split import Scored
from qsdt_jax.randomness import Purpose, key_for
from qsdt_jax.train.state import create_state
from qsdt_jax.train.step import evaluation_step, train_step

RATE, DECAY = 0.5, 0.9
ROWS = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0], [-2.0, 4.0], [1.0, 1.0], [0.0, 3.0]])


class Mean(nn.Module):
    """w . x, with a running mean of x."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.ones, (2,), jnp.float64)
        seen = self.variable("batch_stats", "mean", jnp.zeros, (2,))
        if not self.is_initializing():
            seen.value = 0.5 * seen.value + 0.5 * jnp.mean(x, 0)
        return x @ w


class Task:
    """Loss mean (w . x)^2 / 2, whose gradient is mean (w . x) x."""

    def __init__(self):
        self.seen: list[tuple[jax.Array, jax.Array]] = []

    def loss(self, variables, batch, key, step):
        self.seen.append((batch["x"], key))
        y, updates = Mean().apply(variables, batch["x"], mutable=["batch_stats"])
        loss = jnp.mean(jnp.square(y)) / 2
        return loss, (updates["batch_stats"], {"loss": loss})


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def variables() -> dict:
    return dict(Mean().init(jax.random.key(0), jnp.asarray(ROWS)))


def steps(count: int, task: Any = None, batch: Any = None, **options):
    """The states after each step, the initial one first, and the metrics of the last."""
    batch = {"x": jnp.asarray(ROWS)} if batch is None else batch
    optimizer = optax.sgd(RATE)
    found, metrics = [create_state(variables(), optimizer, ema=True)], {}
    for _ in range(count):
        state, metrics = train_step(found[-1], batch, task=task or Task(), optimizer=optimizer, **options)
        found.append(state)
    return found, metrics


def gradient(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.mean((x @ w)[:, None] * x, axis=0)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_update_is_that_of_the_mean_gradient(parts):
    """However the batch is cut: gradient, statistics and metrics are means over the parts."""
    (before, after), metrics = steps(1, accumulate=parts)
    w = np.ones(2)
    micro = np.split(ROWS, parts)
    mean = np.mean([gradient(w, x) for x in micro], axis=0)
    np.testing.assert_allclose(after.variables["params"]["w"], w - RATE * mean, rtol=1e-12)
    np.testing.assert_allclose(after.variables["batch_stats"]["mean"], ROWS.mean(0) / 2, rtol=1e-12)
    assert float(metrics["loss"]) == pytest.approx(np.mean((ROWS @ w) ** 2) / 2, rel=1e-12)
    assert float(metrics["grad_norm"]) == pytest.approx(np.linalg.norm(mean), rel=1e-12)
    assert (int(before.step), int(after.step)) == (0, 1)


def test_each_micro_batch_has_rows_and_a_key_of_its_own():
    """With two shards it has rows of either: 0 and 3, then 1 and 4, then 2 and 5."""
    task = Task()
    with jax.disable_jit():
        steps(1, task=task, accumulate=3, shards=2, seed=7)
    rows = [ROWS[[0, 3]], ROWS[[1, 4]], ROWS[[2, 5]]]
    np.testing.assert_array_equal([batch for batch, _ in task.seen], rows)
    key = key_for(7, Purpose.STEP, 0)
    expected = [jax.random.key_data(jax.random.fold_in(key, part)) for part in range(3)]
    np.testing.assert_array_equal([jax.random.key_data(k) for _, k in task.seen], expected)


@pytest.mark.parametrize("parts", [1, 2])
def test_moving_average(parts):
    """Of parameters and statistics, from the initial values on: e <- d e + (1 - d) v."""
    found, _ = steps(3, accumulate=parts, ema_decay=DECAY)
    for path in (("params", "w"), ("batch_stats", "mean")):
        values = [np.asarray(state.variables[path[0]][path[1]]) for state in found]
        expected = values[0]
        for value, state in zip(values[1:], found[1:], strict=True):
            expected = DECAY * expected + (1 - DECAY) * value
            assert state.ema is not None
            np.testing.assert_allclose(state.ema[path[0]][path[1]], expected, rtol=1e-12)
        assert np.max(np.abs(expected - values[-1])) > 0.1


# Images in bytes


class Pixels(Task):
    """The same of images (B, 1, 2, 1)."""

    def loss(self, variables, batch, key, step):
        return super().loss(variables, {"x": batch["image"].reshape(-1, 2)}, key, step)

    def outputs(self, variables, batch):
        return batch["image"].reshape(-1, 2) @ variables["params"]["w"]

    def score(self, outputs, batch):
        return Scored({"sum": jnp.sum(outputs * batch["mask"])})


NORMALIZATION = Normalization((0.31,), (0.35,))


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("erased", [False, True])
def test_bytes_become_inputs_in_the_step(parts, erased):
    """Each row with its own box and noise, whichever micro-batch it is in."""
    image = np.arange(0, 240, 20, dtype=np.uint8).reshape(6, 1, 2, 1)
    batch = {"image": jnp.asarray(image)}
    inputs = jnp.asarray(normalize(image.reshape(6, 2, 1), (0.31,), (0.35,)).reshape(6, 1, 2, 1))
    if erased:
        boxes = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]] * 2, np.int32)
        keys = np.arange(12, dtype=np.uint32).reshape(6, 2)
        batch |= {ERASED_BOX: jnp.asarray(boxes), NOISE_KEY: jnp.asarray(keys)}
        inputs = erase(inputs, jnp.asarray(boxes), jnp.asarray(keys))
    found, metrics = steps(2, Pixels(), batch, accumulate=parts, normalization=NORMALIZATION)
    expected, expected_metrics = steps(2, Pixels(), {"image": inputs}, accumulate=parts)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert metrics == expected_metrics
    with pytest.raises(ValueError, match="the images are bytes"):
        steps(1, Pixels(), batch)


def test_bytes_become_inputs_in_the_evaluation():
    image = np.array([[[[10], [200]]], [[[0], [0]]]], np.uint8)
    batch: Any = {"image": image, "mask": np.array([1, 0])}
    task: Any = Pixels()
    found = evaluation_step(variables(), batch, task, NORMALIZATION)
    expected = normalize(image[0], (0.31,), (0.35,)).sum(dtype=np.float64)
    assert float(found.sums["sum"]) == pytest.approx(expected, rel=1e-12)
