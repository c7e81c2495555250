"""What a run has logged so far, in columns: 8 bytes a number, where a dictionary a line takes a kilobyte."""

import array
import math
from collections.abc import Iterator, Mapping

import numpy as np


class History:
    """The lines of a run in the order of their steps; those with the same names lie in one table."""

    def __init__(self):
        self._tables: dict[tuple[str, ...], _Table] = {}

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a line.

        Raises:
          OverflowError: the step is no integer of 64 bits, or a whole number is too large for a float.
        """
        names = tuple(metrics)
        table = self._tables.get(names)
        if table is None:
            table = self._tables[names] = _Table(names)
        table.add(step, metrics.values())

    def line(self, step: int, name: str) -> dict[str, float] | None:
        """The metrics of the newest line of `step` with a value under `name`, or None."""
        found = None
        for table in self._with(name):
            rows = np.flatnonzero(np.array(table.steps) == step)
            if len(rows):
                found = table.row(rows[-1])
        return found

    def best(self, name: str, larger_is_better: bool = True) -> tuple[int, float] | None:
        """(step, value) of the best value under `name`, the newest of equals; NaN is worst."""
        sign = 1 if larger_is_better else -1
        points = zip(*self.series(name), strict=True)
        best = max(
            points, key=lambda point: (not math.isnan(point[1]), sign * point[1], point[0]), default=None
        )
        return best and (int(best[0]), float(best[1]))

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps, int64 (n,) in ascending order, and the values under `name`, float64 (n,)."""
        tables = list(self._with(name))
        steps = np.concatenate([np.zeros(0, np.int64), *(np.array(table.steps) for table in tables)])
        values = np.concatenate([np.zeros(0), *(np.array(table.column(name)) for table in tables)])
        order = np.argsort(steps, kind="stable")
        return steps[order], values[order]

    def _with(self, name: str) -> "Iterator[_Table]":
        return (table for names, table in self._tables.items() if name in names)


class _Table:
    """The lines with the same names."""

    def __init__(self, names: tuple[str, ...]):
        self._names = names
        self.steps = array.array("q")
        self._values = array.array("d")  # Row by row.

    def add(self, step: int, values) -> None:
        self._values.fromlist(list(values))  # All or, with an error, none.
        self.steps.append(step)

    def column(self, name: str) -> array.array:
        return self._values[self._names.index(name) :: len(self._names)]

    def row(self, index: int) -> dict[str, float]:
        start = index * len(self._names)
        return dict(zip(self._names, self._values[start : start + len(self._names)], strict=True))
