"""The training loop: the only one, for every task.

Invariants:
* Between steps the state is whole; only there it is saved.
* What training logs at a step is on disk before the checkpoint of that step; the evaluation comes after it.
  A resumed run evaluates its checkpoint where that is missing, and drops what was logged after it. So a run
  that is killed at any moment and started again ends with the state and the logged losses of an
  uninterrupted one, bit for bit.
* Nothing in a workdir changes before all that can refuse a start has been checked.
* No state with a non-finite loss or gradient behind it is ever saved, nor is anything of that step logged.
"""

import dataclasses
import functools
import json
import math
import os
import statistics
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qsdt_jax.data.classes import tell_trust
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.evaluate.split import evaluate_split
from qsdt_jax.files import write_atomically
from qsdt_jax.processes.joining import Vote, is_first, require_same
from qsdt_jax.processes.peers import Peers
from qsdt_jax.processes.preemption import OTHERS_SIGNAL, Background, Preempted, Preemption
from qsdt_jax.progress import Progress
from qsdt_jax.tasks.task import Variables
from qsdt_jax.train.functions import evaluation_function, initial_function, step_function
from qsdt_jax.train.programs import Programs
from qsdt_jax.train.run import HostBatches, Run
from qsdt_jax.train.state import TrainState, parameter_count
from qsdt_jax.workdir.checkpoint import Checkpointer
from qsdt_jax.workdir.curves import draw_curves
from qsdt_jax.workdir.metrics import MetricWriter
from qsdt_jax.workdir.profiling import FOLDER as PROFILE_FOLDER
from qsdt_jax.workdir.profiling import Profile
from qsdt_jax.workdir.provenance import provenance
from qsdt_jax.workdir.stored import stored_steps
from qsdt_jax.workdir.workdir import CHECKPOINT_FOLDER, SOURCE_KEYS, SUMMARY_FILE, TRAINING, Workdir

PLACED_AHEAD = 2  # Batches on the devices before they are used.

Finished = tuple[int, dict[str, jax.Array]]  # A step and its metrics.


def train(
    run: Run,
    workdir: str | os.PathLike[str],
    *,
    begin: Callable[[Run], None] | None = None,
    peers: Peers | None = None,
) -> dict[str, Any]:
    """Trains, or goes on where the workdir stands.

    Args:
      run: what to train.
      workdir: gets checkpoints, metrics.jsonl, TensorBoard files, curves.png and at the end summary.json.
      begin: called by the first process once the workdir may be the run's.
      peers: the other processes, of several that are `joined`.

    Returns:
      The summary.

    Raises:
      UserError: a non-finite loss or gradient; a workdir of another run, not writable or in use; damaged
        checkpoints only; a full disk; processes that see different data or checkpoints.
      Preempted: SIGTERM or SIGINT; the state is saved.
    """
    names = run.task.class_names
    lengths = {
        "number of training images": run.training_images,
        "number of evaluation images": run.evaluation_images,
        "number of steps": run.total_steps,
        "checksum of the class names": zlib.crc32(json.dumps(names and list(names)).encode()),
    }
    require_same(lengths, seen="data")
    networks = {key: run.sources[key].checksum if key in run.sources else 0 for key in SOURCE_KEYS}
    require_same({f"checksum of {key}": number for key, number in networks.items()}, seen="workdirs")
    checkpoints = Path(workdir) / CHECKPOINT_FOLDER
    directory = Workdir(workdir, writes=is_first())
    # Without a checkpoint nothing is lost by another run.
    if directory.path.is_dir() and stored_steps(checkpoints):
        directory.require(run.belongings, run.defaults)
    with (
        Preemption(
            Vote().call if jax.process_count() > 1 else None, None if peers is None else peers.agree
        ) as preemption,
        directory,
    ):
        # Again under the lock: another run may have begun meanwhile.
        if stored_steps(checkpoints) and (known := directory.require(run.belongings, run.defaults)):
            tell_trust(run.task.class_names or (), known, what=TRAINING)
        with Checkpointer(
            checkpoints,
            keep_latest=run.keep_latest,
            keep_best=run.keep_best,
            best_metric=run.metric.logged,
            larger_is_better=run.metric.larger_is_better,
        ) as checkpointer:
            if peers is not None:
                peers.before_leaving = checkpointer.wait
            if begin is not None and is_first():
                begin(run)
            return _Session(run, directory, preemption, checkpointer).finish()


class _Session:
    """One start of a run, from restoring to the end or the next interruption."""

    def __init__(self, run: Run, directory: Workdir, preemption: Preemption, checkpointer: Checkpointer):
        self.run, self.workdir = run, directory.path
        self.preemption, self.checkpointer = preemption, checkpointer
        self.provenance = provenance()  # Of the code that runs: the checkout may change meanwhile.
        # Once and not anew at each step: a teacher is as large as what it teaches.
        self._arguments = run.parallel.put_everywhere(run.task), np.int32(run.seed)
        self.state = self._restore_or_create()
        self.step = int(self.state.step)
        self.writer = MetricWriter(self.workdir, self.step, writes=is_first())
        directory.claim(run.belongings)
        self._training, self._evaluation = Programs(preemption), Programs(preemption)
        self.rates = run.learning_rates()

    def finish(self) -> dict[str, Any]:
        """Runs the steps that are left, and returns the summary."""
        try:
            self._train()
            self.checkpointer.wait()
            return self._write_summary()
        except Preempted:
            self.checkpointer.save(self.step, self.state, wait=True)
            raise Preempted(
                f"{self.preemption.signal_name or OTHERS_SIGNAL}: stopped after step {self.step} of "
                f"{self.run.total_steps}; the same command goes on from there"
            ) from None
        finally:
            # Last and in bounds, for nothing waits for it: neither of the two raises anything.
            self.writer.close()
            if is_first():
                draw_curves(self.workdir, self.writer.history, self.run.task.metrics)

    def _restore_or_create(self) -> TrainState:
        parallel, run = self.run.parallel, self.run
        function = initial_function(run.optimizer, run.ema_decay > 0)
        initial = parallel.jit_initial(function, *self._arguments)
        target = parallel.state_like(initial.eval_shape(*self._arguments))
        restored = self.checkpointer.restore_latest(target, self._require_room)
        if restored is not None:
            return restored[1]
        state = self.preemption.wait_for(functools.partial(initial, *self._arguments))
        self._require_room(0, state)
        if self.run.start_from is None:
            return state
        return parallel.put_state(state.starting_with(self.run.start_from(state.variables)))

    def _require_room(self, step: int, state: TrainState) -> None:
        if step < self.run.total_steps:
            self.checkpointer.require_room(step + 1, state)

    def _train(self) -> None:
        run = self.run
        if self.step and run.evaluation_due(self.step):
            self._evaluate_if_missing()
        if self.step >= run.total_steps:
            return
        batches = Background(run.training_data(self.step), run.parallel.place, ahead=PLACED_AHEAD)
        batch = self.preemption.next_of(batches)
        self._compiled_step(batch)  # Before time is measured.
        progress = Progress(run.total_steps, self.step, run.batch_size, shown=is_first())
        profile = Profile(run.profile_steps if is_first() else None, self.workdir / PROFILE_FOLDER)
        running: Finished | None = None
        try:
            while True:
                profile.before(self.step + 1)
                update = self._compiled_step(batch)
                self.state, metrics = update(self.state, batch, *self._arguments)
                self.step += 1
                profile.after(self.step, metrics)
                self.preemption.meet()
                # Looking at the step before keeps the device busy with this one.
                if running is not None:
                    self._report(*running, progress)
                running = self.step, metrics
                if self.preemption.requested or run.save_due(self.step):
                    self._report(*running, progress)
                    running = None
                    with progress.aside():
                        self._save(progress)
                if self.step == run.total_steps:
                    break
                batch = self._next_of(batches, running, progress)
        except Preempted:
            if running is not None:
                self._report(*running, progress)
            raise
        finally:
            batches.close()
            progress.close()
            profile.close()

    def _next_of(self, batches: Background, running: Finished | None, progress: Progress):
        """The next batch; where there is none, being unreadable, the steps so far are saved."""
        try:
            return self.preemption.next_of(batches)
        except UserError:
            if jax.process_count() == 1:  # Several would have to save together.
                if running is not None:
                    self._report(*running, progress)
                self.checkpointer.save(self.step, self.state, wait=True)
            raise

    def _compiled_step(self, batch):
        run = self.run
        function = step_function(
            optimizer=run.optimizer,
            accumulate=run.accumulate,
            shards=run.parallel.shards_in_step,
            ema_decay=run.ema_decay,
            normalization=run.normalization,
            flat=run.parallel.flat_in_step,
        )
        arguments = self.state, batch, *self._arguments
        return self._training.compiled(
            batch, lambda: run.parallel.train_step(function, self.state), *arguments
        )

    def _report(self, step: int, metrics: Mapping[str, jax.Array], progress: Progress) -> None:
        """Checks the loss and the gradient of a finished step, shows and logs its metrics."""
        values = {f"train/{name}": float(value) for name, value in metrics.items()}
        self._require_finite(step, "loss", values["train/loss"])
        self._require_finite(step, "norm of the gradient", values["train/grad_norm"])
        progress.update(step, f"loss {values['train/loss']:.4f}")
        if step % self.run.log_every == 0 or step == self.run.total_steps:
            values["train/learning_rate"] = float(self.rates[step - 1])
            values["train/images_per_second"] = progress.lap()
            self.writer.write(step, values)

    def _require_finite(self, step: int, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        self.checkpointer.wait()
        saved = max(self.checkpointer.steps(), default=None)
        raise UserError(
            f"the {name} is {value} at step {step}; "
            f"the last checkpoint is {'none' if saved is None else f'of step {saved}'}. "
            "Lower the learning rate or lengthen the warm-up"
        )

    def _save(self, progress: Progress) -> None:
        self.preemption.check()
        # First, so that an evaluation that fails costs no step.
        self.checkpointer.save(self.step, self.state)
        if self.run.evaluation_due(self.step):
            metrics = self._evaluate()
            text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            progress.say(f"step {self.step}/{self.run.total_steps}  {text}")
            self.checkpointer.add_metrics(self.step, metrics)

    def _evaluate_if_missing(self) -> None:
        """Evaluates the checkpoint, or notes its score, where an interruption came before that."""
        logged = self.writer.history.line(self.step, self.run.metric.logged)
        self.checkpointer.add_metrics(self.step, logged or self._evaluate())

    def _evaluate(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for number, (split, data) in enumerate(self.run.evaluation_data.items()):
            suffix, truth = f"_{split}" if number else "", self.run.truths.get(split, lambda: None)
            metrics |= self._evaluate_variables(self.state.variables, data, truth, f"eval{suffix}")
            if self.state.ema is not None:
                metrics |= self._evaluate_variables(self.state.ema, data, truth, f"eval_ema{suffix}")
        self.writer.write(self.step, metrics)
        return metrics

    def _evaluate_variables(
        self, variables: Variables, data: Callable[[], HostBatches], truth: Callable[[], Any], prefix: str
    ) -> dict[str, float]:
        run = self.run
        batches = Background(data(), run.parallel.place, ahead=PLACED_AHEAD)
        task, _ = self._arguments
        function = evaluation_function(run.normalization)

        def step(batch):
            score = self._evaluation.compiled(
                batch, lambda: run.parallel.evaluation_step(function), variables, batch, task
            )
            self.preemption.meet()
            return score(variables, batch, task)

        try:
            metrics = evaluate_split(
                step, self.preemption.iterate(batches), lambda total: run.task.summarize(total, truth())
            )
        except CorruptRecord as error:  # A score of fewer examples would be another one.
            raise UserError(
                f"the evaluation needs all of its split, but {error}. "
                f"Mend the data, and the same command goes on from step {self.step}"
            ) from None
        return {f"{prefix}/{name}": value for name, value in metrics.items()}

    def _write_summary(self) -> dict[str, Any]:
        metric, history = self.run.metric.logged, self.writer.history
        final = history.line(self.step, metric) or {}
        best_step, best = history.best(metric, self.run.metric.larger_is_better) or (None, None)
        _, rates = history.series("train/images_per_second")
        summary = {
            "step": self.step,
            "final": {metric: final.get(metric)},
            "best": {metric: best, "step": best_step},
            "images_per_second": statistics.median(rates.tolist()) if len(rates) else None,
            "parameters": parameter_count(self.state.variables),
            "config": self.run.config,
            "sources": {key: dataclasses.asdict(source) for key, source in self.run.sources.items()},
            **self.provenance,
        }
        if is_first():
            write_atomically(self.workdir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
        return summary
