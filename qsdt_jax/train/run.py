"""All that defines a training run; the loop does the rest."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax

from qsdt_jax.data.images import Normalization
from qsdt_jax.metric import Metric
from qsdt_jax.tasks.task import Task, Variables
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.state import TrainState
from qsdt_jax.train.step import initial_state
from qsdt_jax.workdir.workdir import Belongings, Source

HostBatches = Iterator[Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """All that defines a training run.

    Attributes:
      config: the configuration as plain data, stored in the workdir and compared on resume.
      task: model, loss, evaluation.
      optimizer: applied to the gradients, as `train_step` says.
      schedule: the optimiser's learning rate by step, for the log.
      training_data: batches from a given step on.
      evaluation_data: the splits that are evaluated by their names, each time anew. The metrics of the first
        are logged as "eval/NAME" and decide which checkpoint is best, those of others as "eval_SPLIT/NAME";
        of the moving average as "eval_ema/NAME" and "eval_ema_SPLIT/NAME".
      truths: of these splits, by their names, what gives what their sources have as `truth`, see
        `tasks.task.Scorer.summarize`; asked for by each evaluation. A split that is left out has None.
      normalization: of images in bytes; None where the batches are inputs already.
      training_images, evaluation_images: numbers of them, the latter of all splits together.
      total_steps: length of the run.
      batch_size: images per step.
      log_every, eval_every, save_every: in steps; each evaluation is followed by a checkpoint as well.
      seed, accumulate, ema_decay: see `train_step`.
      keep_latest, keep_best: checkpoints kept.
      parallel: the devices and how they share the work.
      profile_steps: first and last step to trace into the workdir, or None.
      start_from: makes the variables that a new run starts with out of freshly drawn ones, where it does not
        start with these.
      sources: the checkpoints of other networks that it takes, by their key of the configuration.
      defaults: of the configuration, for workdirs that are older than some of its keys; None where it has no
        others.
    """

    config: Mapping[str, Any]
    task: Task
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    training_data: Callable[[int], HostBatches]
    evaluation_data: Mapping[str, Callable[[], HostBatches]]
    training_images: int
    evaluation_images: int
    total_steps: int
    batch_size: int
    log_every: int
    eval_every: int
    save_every: int
    seed: int = 0
    accumulate: int = 1
    ema_decay: float = 0.0
    keep_latest: int = 2
    keep_best: int = 1
    parallel: Parallel = dataclasses.field(default_factory=Parallel)
    profile_steps: tuple[int, int] | None = None
    start_from: Callable[[Variables], Variables] | None = None
    sources: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] | None = None
    normalization: Normalization | None = None
    truths: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """The number that decides which checkpoint is best."""
        return self.task.metrics[0]

    @property
    def belongings(self) -> Belongings:
        """What its checkpoints belong to."""
        return Belongings(
            config=self.config,
            class_names=self.task.class_names,
            training_images=self.training_images,
            sources=self.sources,
        )

    def initial_state(self) -> TrainState:
        """The state before the first step, a pure function of the seed."""
        return initial_state(self.task, self.optimizer, seed=self.seed, ema=self.ema_decay > 0)

    def learning_rates(self) -> np.ndarray:
        """That of each step, float64 (total_steps,)."""
        steps = np.arange(self.total_steps, dtype=np.int32)
        return np.asarray(jax.vmap(self.schedule)(steps), np.float64)

    def evaluation_due(self, step: int) -> bool:
        """Whether the split is evaluated after `step`."""
        return step % self.eval_every == 0 or step == self.total_steps

    def save_due(self, step: int) -> bool:
        """Whether a checkpoint follows `step`."""
        return step % self.save_every == 0 or self.evaluation_due(step)
