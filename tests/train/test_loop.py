"""The training loop, with a task of one weight."""

import dataclasses
import itertools
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.train.checkpoint import Checkpointer, restore_raw
from qsdt_jax.train.loop import CHECKPOINT_FOLDER, Run, train
from qsdt_jax.train.metrics import MetricWriter, read_metrics
from qsdt_jax.train.stored import best_step
from qsdt_jax.train.workdir import NOTHING_KNOWN, read_belongings

METRIC, RATE = "eval/top1", "train/images_per_second"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class OneWeight:
    """The weight is 1 at first and falls by the learning rate in each step.

    Attributes:
      no_loss: step at which the loss is NaN; 0 for none.
      no_gradient: step at which the loss is finite, but its gradient infinite; 0 for none.
    """

    no_loss: int = 0
    no_gradient: int = 0
    best_metric: str = METRIC

    def init(self, key):
        return {"params": {"weight": jnp.ones(())}, "batch_stats": {}}

    def loss(self, variables, batch, key, step: jax.Array | int = 0):
        weight = variables["params"]["weight"]
        nothing = weight - jax.lax.stop_gradient(weight)
        # The root has an infinite slope at 0 and 1/2 at 1.
        loss = weight / 2 + jnp.sqrt(jnp.where(step + 1 == self.no_gradient, nothing, nothing + 1))
        loss = jnp.where(step + 1 == self.no_loss, jnp.nan, loss)
        return loss, ({}, {"loss": loss})

    def evaluate(self, variables, batch):
        return {"weight": variables["params"]["weight"]}

    def summarize(self, sums):
        """Best where the weight is 1/2."""
        return {"top1": 100 - 100 * abs(float(sums["weight"]) - 0.5)}


def run(task: OneWeight, **settings) -> Run:
    """4 steps, after each of which it is saved and evaluated unless said otherwise."""
    batch = {"image": np.zeros((2, 1), np.float32), "label": np.zeros(2, np.int32)}

    def training_data(first_step):
        while True:
            yield batch

    schedule = optax.constant_schedule(0.25)
    defaults: dict[str, Any] = {"log_every": 1, "eval_every": 1, "save_every": 1, "total_steps": 4}
    return Run(
        config={},
        task=task,
        class_names=("only",),
        optimizer=optax.sgd(schedule),
        schedule=schedule,
        training_data=training_data,
        evaluation_data=lambda: iter([{**batch, "mask": np.ones(2, np.int32)}]),
        training_images=8,
        evaluation_images=2,
        batch_size=2,
        **defaults | settings,
    )


@pytest.fixture
def slow_saves(monkeypatch):
    """Checkpoints get their names a while after they are written."""
    rename = os.rename

    def late(old, new):
        if Path(new).parent.name == CHECKPOINT_FOLDER:
            time.sleep(0.3)
        rename(old, new)

    monkeypatch.setattr("os.rename", late)


@pytest.mark.parametrize(
    ("save_every", "task", "told"),
    [
        (2, OneWeight(no_loss=3), "the loss is nan at step 3"),
        (2, OneWeight(no_gradient=3), "the norm of the gradient is inf at step 3"),
        (1, OneWeight(no_gradient=3), "the norm of the gradient is inf at step 3"),
    ],
)
def test_nothing_is_kept_of_a_step_that_is_not_finite(tmp_path, slow_saves, save_every, task, told):
    """Whether a checkpoint is due after it or not; so the run can go on from before."""
    with pytest.raises(UserError) as error:
        train(run(task, save_every=save_every, eval_every=4), tmp_path)
    assert str(error.value).startswith(f"{told}; the last checkpoint is of step 2. ")
    step, state = restore_raw(tmp_path / CHECKPOINT_FOLDER)
    assert (step, float(state["variables"]["params"]["weight"])) == (2, 0.5)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert train(run(OneWeight(), save_every=save_every, eval_every=4), tmp_path)["step"] == 4


def test_a_first_step_that_is_not_finite(tmp_path):
    with pytest.raises(UserError, match="the loss is nan at step 1; the last checkpoint is none"):
        train(run(OneWeight(no_loss=1, no_gradient=1)), tmp_path)


def test_an_evaluation_that_fails_costs_no_step(tmp_path):
    good = run(OneWeight(), eval_every=3, save_every=100)

    def unreadable():
        raise CorruptRecord("val/a.jpg: truncated")
        yield

    with pytest.raises(UserError) as error:
        train(dataclasses.replace(good, evaluation_data=unreadable), tmp_path)
    assert str(error.value) == (
        "the evaluation needs all of its split, but val/a.jpg: truncated. "
        "Mend the data, and the same command goes on from step 3"
    )
    assert restore_raw(tmp_path / CHECKPOINT_FOLDER)[0] == 3
    train(good, tmp_path)
    assert [(line["step"], METRIC in line) for line in read_metrics(tmp_path)] == [
        (1, False),
        (2, False),
        (3, False),
        (3, True),
        (4, False),
        (4, True),
    ]


def test_input_that_ends_costs_no_step(tmp_path):
    good = run(OneWeight(), eval_every=100, save_every=100)

    def unreadable(first_step):
        yield from itertools.islice(good.training_data(first_step), 3)
        raise UserError("11 records cannot be read")

    with pytest.raises(UserError, match="11 records"):
        train(dataclasses.replace(good, training_data=unreadable), tmp_path)
    assert restore_raw(tmp_path / CHECKPOINT_FOLDER)[0] == 3
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_score_that_was_logged_is_not_measured_again(tmp_path, monkeypatch):
    """A run killed between the line of an evaluation and its note in the checkpoint."""
    finished = run(OneWeight(), total_steps=2, eval_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "add_metrics", lambda *_: None)
        train(finished, tmp_path)
    lines = read_metrics(tmp_path)
    assert best_step(tmp_path / CHECKPOINT_FOLDER, METRIC) is None
    train(finished, tmp_path)
    assert best_step(tmp_path / CHECKPOINT_FOLDER, METRIC) == 2
    assert read_metrics(tmp_path) == lines


def test_a_run_goes_on_where_classes_were_not_known(tmp_path, capsys):
    """The data's names are the run's from then on, in a start that nothing refuses."""
    first = run(OneWeight(), total_steps=2)
    train(first, tmp_path)
    (tmp_path / "data.json").write_text(NOTHING_KNOWN)
    capsys.readouterr()
    with pytest.raises(UserError, match="order of their numbers"):
        train(dataclasses.replace(first, class_names=("1", "0")), tmp_path)
    assert (tmp_path / "data.json").read_text() == NOTHING_KNOWN and capsys.readouterr().err == ""
    train(first, tmp_path)
    assert capsys.readouterr().err.count("on trust") == 1
    assert read_belongings(tmp_path).class_names == ("only",)


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    first = run(OneWeight(), total_steps=2)
    train(first, tmp_path)
    for changes, told in (
        ({"training_images": 9}, "of 8 training images, these are 9"),
        ({"class_names": ("other",)}, "'other' where the network has 'only'"),
    ):
        with pytest.raises(UserError, match=told):
            train(dataclasses.replace(first, **changes), tmp_path)
    train(first, tmp_path)


@pytest.mark.parametrize("keep_best", [0, 1])
def test_the_best_is_a_step_with_its_own_score(tmp_path, keep_best):
    """Also where its checkpoint is gone."""
    scores = {1: 75.0, 2: 100.0, 3: 75.0, 4: 50.0}
    summary = train(run(OneWeight(), keep_latest=1, keep_best=keep_best), tmp_path)
    assert {line["step"]: line[METRIC] for line in read_metrics(tmp_path) if METRIC in line} == scores
    assert (summary["best"], summary["final"]) == ({METRIC: 100.0, "step": 2}, {METRIC: 50.0})
    assert best_step(tmp_path / CHECKPOINT_FOLDER, METRIC) == (2 if keep_best else 4)


def test_best_line(tmp_path):
    writer = MetricWriter(tmp_path, 0, writes=False)
    assert writer.best("score") is None
    for step, value in enumerate([math.nan, 3.0, 5.0, 5.0, 4.0, math.nan]):
        writer.write(step, {"score": value, "other": -value})
    assert writer.best("score") == {"step": 3, "score": 5.0, "other": -5.0}


def test_the_rate_is_that_of_training(tmp_path):
    """Evaluations, half a second each, would make it less than 4."""
    fast = run(OneWeight(), total_steps=3)

    def evaluation_data():
        time.sleep(0.5)
        yield from fast.evaluation_data()

    summary = train(dataclasses.replace(fast, evaluation_data=evaluation_data), tmp_path)
    rates = [line[RATE] for line in read_metrics(tmp_path) if RATE in line]
    assert len(rates) == 3 and min(rates) > 4
    assert summary["images_per_second"] == sorted(rates)[1]
