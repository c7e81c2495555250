"""The loss of each time step (TET), of both kinds of classifiers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.assemble.build import build_run
from qsdt_jax.data.classes import numbers
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.train.loop import train
from qsdt_jax.workdir.metrics import read_metrics
from tests.deploy.nets import draw_images, draw_variables, short_net
from tests.launch.tiny import resformer_config


@pytest.mark.parametrize("timesteps", [1, 3])
def test_it_is_the_mean_of_the_losses_of_all_steps(timesteps):
    model = short_net(timesteps=timesteps)
    task = Classification(
        model=model, image_shape=(32, 32, 3), class_names=numbers(10), label_smoothing=0.1, each_step=True
    )
    variables, labels = draw_variables(model), np.array([3, 0, 7])
    batch: Any = {"image": draw_images(3, 32, 32, 3), "label": labels}

    @jax.jit
    def both(variables, batch):
        loss, _ = task.loss(variables, batch, jax.random.key(0))
        steps, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"], method="steps")
        mean, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        return loss, steps, mean

    loss, steps, mean = both(variables, batch)
    assert steps.shape == (3, timesteps, 10)
    np.testing.assert_allclose(jnp.mean(steps, 1), mean, rtol=1e-5, atol=1e-5)
    steps = np.asarray(steps, np.float64)
    logs = steps - np.log(np.exp(steps).sum(-1, keepdims=True))
    targets = 0.9 * np.eye(10)[labels] + 0.01
    assert float(loss) == pytest.approx(-(targets[:, None] * logs).sum(-1).mean(), rel=1e-5)
    if timesteps > 1:
        of_mean = dataclasses.replace(task, each_step=False).label_loss(mean, labels)
        assert float(loss) != pytest.approx(float(of_mean), rel=1e-3)


@pytest.mark.slow
def test_a_spikingresformer_is_trained_on_the_digits_with_it(tmp_path):
    """Three steps: the loss falls from about log 10, firing rates of attention are measured and stored."""
    config = resformer_config(
        steps=3,
        batch_size=32,
        **{"loss.each_step": True, "model.timesteps": 2, "data.augmentation": "none"},
        **{"resformer.small_images": False, "eval.every_epochs": 10.0, "eval.batch_size": 360},
    )
    train(build_run(config), tmp_path)
    losses = [line["train/loss"] for line in read_metrics(tmp_path) if "train/loss" in line]
    assert len(losses) == 3 and losses[-1] < losses[0] == pytest.approx(np.log(10), abs=0.1)
    statistics = load_trained(tmp_path).variables["batch_stats"]
    for stage in (1, 2, 3):
        rates = statistics[f"stage{stage}_dssa0"]
        assert all(0 < float(rates[name].min()) < 1 for name in ("rate_x", "rate_attn"))
