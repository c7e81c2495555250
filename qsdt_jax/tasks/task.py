"""What a task is. Training, evaluation, workdirs and commands ask it, and know no task themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from qsdt_jax.evaluate.split import Scored
from qsdt_jax.metric import Metric

Batch = Mapping[str, jax.Array]
Variables = dict[str, Any]  # "params" and "batch_stats".


class Scorer(Protocol):
    """How a split is scored from what a network gives for its batches."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The numbers of a split.

        The first decides which checkpoint is best, and stands in the tables of studies. One that is called
        "loss" is drawn beside the training loss.
        """
        ...

    def score(self, outputs: Any, batch: Batch) -> Scored:
        """What a batch adds to the score: sums without padding, or rows with it, see `Scored`."""
        ...

    def summarize(self, total: Scored, truth: Any) -> dict[str, float]:
        """The value of each metric, by its name, of a whole split.

        Args:
          total: its sums and rows in NumPy arrays.
          truth: what its source has as `truth`, for metrics that compare with more than batches hold; else
            None.
        """
        ...


class Task(Scorer, Protocol):
    """One kind of training, as pure functions of variables and batch.

    A task is a pytree: its arrays, if it has any, are arguments of the compiled step. All else is static, and
    equal tasks share compiled programs.
    """

    @property
    def model(self) -> Any:
        """Its network, a Flax module."""
        ...

    @property
    def class_names(self) -> Sequence[str] | None:
        """What its outputs are called, in their order; None where they are no classes or categories.

        The workdir keeps the names, and data with other ones are refused.
        """
        ...

    @property
    def loss_title(self) -> str:
        """What is minimised, in the words of a recipe."""
        ...

    def batch_shapes(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch of `size` examples as `loss` takes it, its images being inputs and no longer bytes.

        Evaluation adds "mask" (size,), int32, 0 for padding.
        """
        ...

    def init(self, key: jax.Array) -> Variables:
        """Initial variables; without "batch_stats" where the network has none."""
        ...

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Scalar training loss after `step` updates, with (new batch statistics, metrics to log besides it).

        Without batch norm the statistics are {}.
        """
        ...

    def outputs(self, variables: Variables, batch: Batch) -> Any:
        """What the network gives in evaluation, arrays of B leading rows, from which `score` scores."""
        ...


def variable_shapes(task: Task) -> Variables:
    """Shape and type of each of its variables, as `init` gives them. Equal tasks are traced once."""
    return _initialized.eval_shape(task, jax.random.key(0))


@jax.jit
def _initialized(task: Task, key: jax.Array) -> Variables:
    return task.init(key)
