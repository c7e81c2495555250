"""What a task is: its model, its loss, its evaluation. The training loop knows no task."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

Batch = Mapping[str, jax.Array]
Variables = dict[str, Any]  # "params" and "batch_stats".


class Task(Protocol):
    """One kind of training, as pure functions of variables and batch.

    A task is a pytree: its arrays, if it has any, are arguments of the compiled step.
    """

    @property
    def best_metric(self) -> str:
        """Name of the evaluation metric that decides which checkpoint is best (larger is better)."""
        ...

    def init(self, key: jax.Array) -> Variables:
        """Initial variables."""
        ...

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array | int = 0
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Scalar training loss after `step` updates, with (new batch statistics, metrics to log)."""
        ...

    def evaluate(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Sums over one batch, padding left out; they are added up over the split."""
        ...

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Metrics of a whole split from its sums, e.g. {"top1": 98.6, "loss": 0.05}."""
        ...
