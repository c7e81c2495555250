"""Compiled programs of batches that are not all of one shape."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from qsdt_jax.processes.preemption import Preemption


class Programs:
    """A function of a batch, compiled for each kind of batch: its names, shapes and types.

    Args:
      preemption: stops a compilation where a signal comes.
    """

    def __init__(self, preemption: Preemption):
        self._preemption = preemption
        self._compiled: dict[Any, jax.stages.Compiled] = {}

    def compiled(
        self, batch: Mapping[str, jax.Array], make: Callable[[], jax.stages.Wrapped], *args: Any
    ) -> jax.stages.Compiled:
        """The program for batches like this one.

        Args:
          batch: of a kind.
          make: the jitted function, where it is needed.
          args: what it will take, the batch among it.

        Raises:
          Preempted: as `Preemption.compile`; processes whose batches are alike call it equally often.
        """
        kind = tuple((name, rows.shape, rows.dtype) for name, rows in sorted(batch.items()))
        if kind not in self._compiled:
            self._compiled[kind] = self._preemption.compile(make(), *args)
        return self._compiled[kind]
