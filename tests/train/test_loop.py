"""The training loop, with a task of one weight."""

import dataclasses
import errno
import itertools
import json
import math
import os
import time
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.evaluate.split import Scored
from qsdt_jax.metric import Metric
from qsdt_jax.train import loop
from qsdt_jax.train.flat import Flat
from qsdt_jax.train.loop import train
from qsdt_jax.train.optimizer import adamw, chained
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.run import Run
from qsdt_jax.workdir import stored
from qsdt_jax.workdir.checkpoint import Checkpointer, restore_raw
from qsdt_jax.workdir.metrics import MetricWriter, read_metrics
from qsdt_jax.workdir.stored import best_step
from qsdt_jax.workdir.workdir import CHECKPOINT_FOLDER, NOTHING_KNOWN, read_belongings

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
    class_names: tuple[str, ...] = ("only",)
    metrics = (Metric("top1", "top-1", "%"),)
    model = None
    loss_title = "the weight"

    def batch_shapes(self, size):
        return {"image": jax.ShapeDtypeStruct((size, 1), np.float32)}

    def init(self, key):
        return {"params": {"weight": jnp.ones(())}, "batch_stats": {}}

    def loss(self, variables, batch, key, step: jax.Array | int = 0):
        weight = variables["params"]["weight"]
        nothing = weight - jax.lax.stop_gradient(weight)
        # The root has an infinite slope at 0 and 1/2 at 1.
        loss = weight / 2 + jnp.sqrt(jnp.where(step + 1 == self.no_gradient, nothing, nothing + 1))
        loss = jnp.where(step + 1 == self.no_loss, jnp.nan, loss)
        return loss, ({}, {"loss": loss})

    def outputs(self, variables, batch):
        return variables["params"]["weight"]

    def score(self, outputs, batch):
        return Scored(sums={"weight": outputs})

    def summarize(self, total, truth):
        """Best where the weight is 1/2; less by the truth of a split that has one."""
        return {"top1": 100 - 100 * abs(float(total.sums["weight"]) - 0.5) - (truth or 0)}


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
        optimizer=optax.sgd(schedule),
        schedule=schedule,
        training_data=training_data,
        evaluation_data={"test": lambda: iter([{**batch, "mask": np.ones(2, np.int32)}])},
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


def test_what_few_arrays_began_goes_on_with_tensors(tmp_path, monkeypatch):
    """As where a run of a GPU is resumed with fsdp, or on a CPU; checkpoints are the same."""
    seen: list[bool] = []

    def look(updates, params):
        seen.append(isinstance(updates, Flat) and isinstance(params, Flat))
        return updates

    optimizer = chained(optax.stateless(look), adamw(0.25))

    def state_after(folder: str, steps: int) -> Any:
        once = dataclasses.replace(run(OneWeight(), total_steps=steps, ema_decay=0.5), optimizer=optimizer)
        train(once, tmp_path / folder)
        return restore_raw(tmp_path / folder / CHECKPOINT_FOLDER)[1]

    expected = state_after("tensors", 4)
    with monkeypatch.context() as patch:
        patch.setattr(Parallel, "flat_in_step", True)
        state_after("both", 2)
    found = state_after("both", 4)
    assert seen == [False, True, False]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ByRows(OneWeight):
    """Its gradient is as large as the number of rows that it sees at a time."""

    def loss(self, variables, batch, key, step=0):
        loss, (stats, _) = super().loss(variables, batch, key, step)
        loss = loss * len(batch["label"])
        return loss, (stats, {"loss": loss})


def test_batches_of_several_shapes(tmp_path, monkeypatch):
    """Of each the program is compiled once, when the first one comes."""
    compiled, compile_ = [], jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered,
        "compile",
        lambda *args, **options: compiled.append(args) or compile_(*args, **options),
    )

    def training_data(first_step):
        for step in itertools.count(first_step):
            rows = 2 if step % 3 == 2 else 1
            yield {"image": np.zeros((rows, 1), np.float32), "label": np.zeros(rows, np.int32)}

    train(dataclasses.replace(run(ByRows(), eval_every=4), training_data=training_data), tmp_path)
    _, state = restore_raw(tmp_path / CHECKPOINT_FOLDER)
    assert float(state["variables"]["params"]["weight"]) == 1 - 0.25 * (1 + 1 + 2 + 1)
    assert len(compiled) == 3  # Two steps and the evaluation.


def test_a_run_accumulates_and_averages_as_it_says(tmp_path):
    """Two micro-batches of one row: the weight falls by 1/4 a step; its average follows by a quarter."""
    train(run(ByRows(), accumulate=2, ema_decay=0.75), tmp_path)
    _, state = restore_raw(tmp_path / CHECKPOINT_FOLDER)
    average = 1.0
    for weight in (0.75, 0.5, 0.25, 0.0):
        average = 0.75 * average + 0.25 * weight
    assert float(state["variables"]["params"]["weight"]) == 0
    assert float(state["ema"]["params"]["weight"]) == average == 0.5126953125
    assert [line["eval_ema/top1"] for line in read_metrics(tmp_path) if METRIC in line][-1] == 98.73046875


def test_a_first_step_that_is_not_finite(tmp_path):
    with pytest.raises(UserError, match="the loss is nan at step 1; the last checkpoint is none"):
        train(run(OneWeight(no_loss=1, no_gradient=1)), tmp_path)


def test_an_evaluation_that_fails_costs_no_step(tmp_path):
    good = run(OneWeight(), eval_every=3, save_every=100)

    def unreadable():
        raise CorruptRecord("val/a.jpg: truncated")
        yield

    with pytest.raises(UserError) as error:
        train(dataclasses.replace(good, evaluation_data={"test": unreadable}), tmp_path)
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
        train(run(OneWeight(class_names=("1", "0")), total_steps=2), tmp_path)
    assert (tmp_path / "data.json").read_text() == NOTHING_KNOWN and capsys.readouterr().err == ""
    train(first, tmp_path)
    assert capsys.readouterr().err.count("on trust") == 1
    assert read_belongings(tmp_path).class_names == ("only",)


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    first = run(OneWeight(), total_steps=2)
    train(first, tmp_path)
    for changes, told in (
        ({"training_images": 9}, "of 8 training images, these are 9"),
        ({"task": OneWeight(class_names=("other",))}, "'other' where the network has 'only'"),
    ):
        with pytest.raises(UserError, match=told):
            train(dataclasses.replace(first, **changes), tmp_path)
    train(first, tmp_path)


def test_another_split_has_its_own_names_and_decides_nothing(tmp_path):
    """It has a batch more, so that its sums are twice as large, and a truth: its scores are others."""
    first = run(OneWeight(), total_steps=3, ema_decay=0.5)
    [batch] = first.evaluation_data["test"]()
    data = {**first.evaluation_data, "train": lambda: iter([batch, batch])}
    summary = train(dataclasses.replace(first, evaluation_data=data, truths={"train": lambda: 5.0}), tmp_path)
    lines = [line for line in read_metrics(tmp_path) if METRIC in line]
    assert [list(line) for line in lines] == [
        ["step", METRIC, "eval_ema/top1", "eval_train/top1", "eval_ema_train/top1"]
    ] * 3
    assert [line[METRIC] for line in lines] == [75.0, 100.0, 75.0]
    assert [line["eval_train/top1"] for line in lines] == [-5.0, 45.0, 95.0]
    assert summary["best"] == {METRIC: 100.0, "step": 2} and summary["final"] == {METRIC: 75.0}
    assert best_step(tmp_path / CHECKPOINT_FOLDER, METRIC) == 2


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
    assert writer.history.best("score") is None
    for step, value in enumerate([math.nan, 3.0, 5.0, 5.0, 4.0, math.nan]):
        writer.write(step, {"score": value, "other": -value})
    assert writer.history.best("score") == (3, 5.0)
    assert writer.history.line(3, "score") == {"score": 5.0, "other": -5.0}


def spoil(workdir: Path) -> None:
    """Nothing that a run can do without can be written."""
    (workdir / "curves.png").mkdir(parents=True)
    (workdir / "tensorboard").write_text("a file")


def test_niceties_that_fail_change_nothing_about_a_run(tmp_path, caplog):
    good, spoilt = tmp_path / "good", tmp_path / "spoilt"
    spoil(spoilt)
    summaries = [train(run(OneWeight(), profile_steps=(1, 2)), workdir) for workdir in (good, spoilt)]
    for name in ("step", "best", "final"):
        assert summaries[0][name] == summaries[1][name]
    assert json.loads((spoilt / "summary.json").read_text())["step"] == 4
    told = [message.split(":")[0] for message in caplog.messages]
    assert told == ["TensorBoard's file cannot be written", "curves.png cannot be drawn"]


def test_niceties_that_fail_hide_no_error(tmp_path, monkeypatch, caplog):
    """A full disk: the metrics cannot be written, nor can anything else."""
    spoil(tmp_path)
    monkeypatch.setattr(MetricWriter, "_append", full_disk)
    with pytest.raises(UserError, match=r"^the disk is full$"):
        train(run(OneWeight()), tmp_path)
    monkeypatch.setattr(MetricWriter, "_append", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(run(OneWeight()), tmp_path)
    assert caplog.text.count("curves.png cannot be drawn") == 2


def full_disk(*_):
    raise UserError("the disk is full")


def test_a_trace_that_fails_hides_no_error(tmp_path, monkeypatch, caplog):
    def stop():
        raise RuntimeError("no trace")

    monkeypatch.setattr(jax.profiler, "stop_trace", stop)
    monkeypatch.setattr(MetricWriter, "_append", full_disk)
    try:
        with pytest.raises(UserError, match=r"^the disk is full$"):
            train(run(OneWeight(), profile_steps=(1, 4)), tmp_path)
    finally:
        monkeypatch.undo()
        jax.profiler.stop_trace()
    assert f"no trace in {tmp_path / 'profile'}: RuntimeError: no trace; the run does without" in caplog.text


def test_the_summary_comes_before_the_picture(tmp_path, monkeypatch):
    """Whoever stops a run while it draws loses nothing."""
    seen = []

    def interrupted(workdir, history, metrics):
        seen.append((workdir / "summary.json").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "draw_curves", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(run(OneWeight()), tmp_path)
    assert seen == [True]


def test_a_damaged_line_does_not_change_the_best(tmp_path):
    """It was that of step 1 where the line of step 2 was damaged, for all later ones were dropped."""
    first = run(OneWeight(), total_steps=4)
    train(first, tmp_path)
    (tmp_path / "summary.json").unlink()
    file = tmp_path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert '"step": 1' in lines[1] and METRIC in lines[1]
    file.write_text("".join([lines[0], lines[1].replace("step", "stpe"), *lines[2:]]))
    assert train(first, tmp_path)["best"] == {METRIC: 100.0, "step": 2}
    assert file.read_text() == "".join([lines[0], *lines[2:]])


def test_a_checkpoint_that_cannot_be_read_for_a_moment(tmp_path, monkeypatch, caplog):
    """The run goes on from it; it once went on from the one before, and deleted it."""
    train(run(OneWeight(), total_steps=4, keep_latest=3), tmp_path)
    whole = restore_raw(tmp_path / CHECKPOINT_FOLDER)[0]
    restore, errors = stored.ocp.StandardCheckpointHandler.restore, iter([OSError(errno.ESTALE, "stale")])

    def failing(self, path):
        if error := next(errors, None):
            raise error
        return restore(self, path)

    monkeypatch.setattr(stored.ocp.StandardCheckpointHandler, "restore", failing)
    monkeypatch.setattr("qsdt_jax.retry.WAITS", (0.0,))
    caplog.clear()
    assert train(run(OneWeight(), total_steps=4, keep_latest=3), tmp_path)["step"] == whole == 4
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert ["trying again" in message for message in caplog.messages] == [True]
    errors = iter([OSError(errno.ESTALE, "stale")] * 9)
    before = sorted((tmp_path / CHECKPOINT_FOLDER).rglob("*"))
    with pytest.raises(UserError, match="it was left alone"):
        train(run(OneWeight(), total_steps=4, keep_latest=3), tmp_path)
    assert sorted((tmp_path / CHECKPOINT_FOLDER).rglob("*")) == before


@pytest.mark.parametrize("refusal", ["no room", "metrics.jsonl"])
def test_a_refused_start_renames_and_writes_nothing(tmp_path, monkeypatch, refusal):
    """It renamed damage before it looked at the disk, and wrote config.json before it read the metrics."""
    damaged, folder = refusal == "no room", tmp_path / CHECKPOINT_FOLDER
    train(run(OneWeight(), total_steps=2), tmp_path)
    if damaged:
        (folder / "2" / "integrity" / "metadata").write_text("{")
        disk = types.SimpleNamespace(free=0)
        monkeypatch.setattr("qsdt_jax.workdir.checkpoint.shutil.disk_usage", lambda path: disk)
    else:
        (tmp_path / "metrics.jsonl").unlink()
        (tmp_path / "metrics.jsonl").mkdir()
    before = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
    with pytest.raises(UserError, match="free space" if damaged else "metrics.jsonl cannot be read"):
        train(dataclasses.replace(run(OneWeight()), config={"log": {"every_steps": 2}}), tmp_path)
    assert {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")} == before


def test_the_rate_is_that_of_training(tmp_path):
    """Evaluations, half a second each, would make it less than 4."""
    fast = run(OneWeight(), total_steps=3)

    def evaluation_data():
        time.sleep(0.5)
        yield from fast.evaluation_data["test"]()

    summary = train(dataclasses.replace(fast, evaluation_data={"test": evaluation_data}), tmp_path)
    rates = [line[RATE] for line in read_metrics(tmp_path) if RATE in line]
    assert len(rates) == 3 and min(rates) > 4
    assert summary["images_per_second"] == sorted(rates)[1]
