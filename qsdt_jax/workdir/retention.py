"""Which checkpoints stay, and what becomes of a damaged one."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from qsdt_jax.errors import UserError
from qsdt_jax.files import free_path


class LatestAndBest:
    """Orbax's preservation policy; its own BestN forgets the metrics when a run is resumed."""

    def __init__(self, latest: int, best: int, score: Callable[[int], float | None]):
        self._latest, self._best, self._score = latest, best, score

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self.kept(steps)
        return [step in kept for step in steps]

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Those of ascending steps that stay."""
        scored = [(value, step) for step in steps if (value := self._score(step)) is not None]
        best = {step for _, step in sorted(scored, reverse=True)[: self._best]}
        return best | set(steps[-self._latest :])


def set_aside(directory: Path, step: int) -> Path:
    """Renames the folder of a damaged step to one that is free and counts as no step, e.g. "7.damaged".

    Nothing removes it: what reads as damaged here may be read elsewhere.

    Raises:
      UserError: the operating system refuses.
    """
    free = free_path(directory / f"{step}.damaged")
    try:
        os.rename(directory / str(step), free)
    except OSError as error:
        raise UserError(
            f"the damaged checkpoint of step {step} in {directory} cannot be renamed to {free.name}: "
            f"{error.strerror}; move it away, and the same command goes on from the step before"
        ) from None
    logging.warning("renamed the damaged checkpoint of step %d in %s to %s", step, directory, free.name)
    return free
