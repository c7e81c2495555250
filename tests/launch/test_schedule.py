"""The learning rate of a run of any length falls at its end, where it is evaluated as well."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import ade20k_s, coco_s, digits, digits_dvs, digits_transfer, imagenet_s
from configs.ablations.small_digits import small_digits
from launch.recipe import recipe
from qsdt_jax.assemble.build import build_run, build_schedule
from qsdt_jax.train.run import Run
from tests.configs import tiny


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A network takes seconds to trace, and the schedule does not need it."""
    monkeypatch.setattr("qsdt_jax.assemble.tasks.build_model", lambda *_: None)


def fake(config: ConfigDict, steps_an_epoch: int, **overrides) -> ConfigDict:
    """The recipe of a configuration on so many batches."""
    config.update_from_flattened_dict(overrides)
    config.data.source, config.data.fake_images = "fake", steps_an_epoch * config.batch_size
    config.data.fake_classes, config.data.classes = 10, ()
    return config


def rates_of(run: Run) -> np.ndarray:
    return np.array([float(run.schedule(step)) for step in range(run.total_steps)])


def told(run: Run) -> str:
    return next(line for line in recipe(run).splitlines() if "learning rate" in line)


RECIPES = {
    "imagenet": imagenet_s.get_config,
    "imagenet:published": lambda: imagenet_s.get_config("published"),
    "digits": digits.get_config,
    "digits_dvs": lambda: digits_dvs.get_config(),
    "transfer": digits_transfer.get_config,
    "studies": small_digits,
    "tiny": tiny.get_config,
}


@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 11, 15, 16, 20, 21])
@pytest.mark.parametrize("name", RECIPES)
def test_rate_falls_at_the_end_of_every_run(name, epochs):
    """After the warm-up that was asked for, or half of the run where that leaves nothing of it."""
    config = fake(RECIPES[name](), 5, epochs=epochs)
    if name == "digits_dvs":  # There are no fake events.
        config.data.update(events=False, augmentation="none", mean=(0.5,), std=(0.5,))
    run = build_run(config)
    rates = rates_of(run)
    peak = int(np.argmax(rates))
    expected = config.optimizer.learning_rate * config.batch_size / 256
    assert rates[peak] == pytest.approx(expected, rel=1e-6)
    assert np.all(np.diff(rates[: peak + 1]) > 0) and np.all(np.diff(rates[peak:]) < 0)
    assert rates[-1] < expected * (0.25 if run.total_steps >= 10 else 0.8)
    asked = config.optimizer.warmup_epochs
    cut = asked >= epochs
    assert peak == ((5 * epochs - 1) // 2 if cut else round(5 * asked))
    assert (f"which is too short for warmup_epochs={asked:g})" in told(run)) == cut


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0, 10.0, 1e308])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_runs_of_few_steps(steps, warmup):
    """One step is made at the peak, and not with a rate of 0; the second of two is smaller than the first."""
    run = build_run(fake(digits.get_config(), steps, epochs=1, **{"optimizer.warmup_epochs": warmup}))
    rates, peak = rates_of(run), 1e-2 * 64 / 256
    assert max(rates) == pytest.approx(peak, rel=1e-6)
    assert steps == 1 or rates[-1] < 0.8 * peak
    assert np.sum(rates == 0) <= (warmup > 0 and steps > 2)


def test_it_is_told():
    run = build_run(fake(imagenet_s.get_config(), 6, epochs=2))
    assert "after 5 steps of warm-up (half of this run, which is too short for warmup_epochs=10); " in told(
        run
    )
    run = build_run(fake(imagenet_s.get_config(), 6, epochs=300))
    assert "after 60 steps of warm-up; half a cosine" in told(run)
    run = build_run(fake(imagenet_s.get_config(), 1, epochs=1))
    assert "without warm-up (half of this run, which is too short for warmup_epochs=10); " in told(run)
    # Half a step is none, and nothing was cut.
    run = build_run(fake(imagenet_s.get_config(), 1, epochs=9, **{"optimizer.warmup_epochs": 0.5}))
    assert "at its peak, without warm-up; half a cosine" in told(run)


@pytest.mark.parametrize("steps", [2, 3, 100, 1500, 1501, 1502, 1600])
@pytest.mark.parametrize("variant", ["", "published"])
def test_recipes_by_steps(steps, variant):
    """Their warm-up is one of steps, and after it falls a polynomial to 0."""
    config = ade20k_s.get_config(variant)
    schedule = build_schedule(config, 1010, steps)
    rates = np.array([float(schedule(step)) for step in range(steps)])
    asked, peak = 1500, (1e-3 if variant else 1e-4)
    warmup = asked if asked <= steps - 2 else (steps - 1) // 2
    assert rates.max() == pytest.approx(peak, rel=1e-5) and rates[warmup] == rates.max()
    assert np.all(np.diff(rates[: max(warmup, 1)]) > 0) and np.all(np.diff(rates[warmup:]) < 0)
    assert rates[-1] == 0


@pytest.mark.parametrize(("epoch", "epochs"), [(9857, 12), (400, 12), (9857, 24), (1, 12), (5, 1), (1, 1)])
def test_the_published_detector_falls_by_a_tenth_twice(epoch, epochs):
    """After 8 and 11 of 12 epochs, and at the same shares of other runs."""
    schedule = build_schedule(coco_s.get_config("published"), epoch, epoch * epochs)
    steps = np.arange(epoch * epochs)
    rates = np.array(jax.vmap(schedule)(steps))
    first, second = round(epoch * epochs * 8 / 12), round(epoch * epochs * 11 / 12)
    if epochs == 12:
        assert (first, second) == (8 * epoch, 11 * epoch)
    warmup = min(1000, (len(steps) - 1) // 2)
    expected = np.where(steps < first, 2e-4, np.where(steps < second, 2e-5, 2e-6))
    np.testing.assert_allclose(rates[warmup:], expected[warmup:], rtol=1e-5)
    assert np.all(np.diff(rates[:warmup]) > 0) and (warmup < 2 or rates[0] == pytest.approx(2e-7))


def test_drops_are_told():
    run = build_run(fake(digits.get_config(), 10, epochs=12, **{"optimizer.schedule": "multistep"}))
    assert "a tenth each after 80 and 110 steps to 2.5e-05 in the last step" in told(run)


@pytest.mark.parametrize("every", [0.001, 1.0, 5.0, 1e308])
def test_a_run_shorter_than_the_time_between_evaluations(every):
    """It is evaluated and saved once, at its end."""
    run = build_run(fake(digits.get_config(), 4, epochs=2, **{"eval.every_epochs": every}))
    due = [step for step in range(1, 9) if run.evaluation_due(step)]
    assert due == {0.001: list(range(1, 9)), 1.0: [4, 8]}.get(every, [8])
    assert all(run.save_due(step) for step in due)
    assert f"every {run.eval_every} step" in recipe(run) and run.eval_every <= 8
