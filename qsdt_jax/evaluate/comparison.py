"""Rows of an ablation compared over seeds: table, paired test and picture."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

SIGNIFICANT = 0.05  # p below which the data separate two rows.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The score of one variant with each seed.

    Attributes:
      name: of the variant.
      scores: by seed; larger is better.
      failures: number of seeds that gave none.
    """

    name: str
    scores: Mapping[int, float]
    failures: int = 0

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values()))) if self.scores else math.nan

    @property
    def std(self) -> float:
        """Standard deviation between seeds (n - 1); not a number for a single one."""
        return float(np.std(list(self.scores.values()), ddof=1)) if len(self.scores) > 1 else math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """One row minus another, over the seeds that both have.

    Attributes:
      mean: of the differences.
      p: of a two-sided paired t-test; 1 where all differences are 0, not a number for fewer than two seeds.
    """

    mean: float
    p: float

    @property
    def verdict(self) -> str:
        if math.isnan(self.p):
            return "too few seeds"
        if self.p == 1 and self.mean == 0:
            return "equal"
        return "separated" if self.p < SIGNIFICANT else "not separated"


def difference(row: Row, other: Row) -> Difference:
    """row - other with the paired t-test over their common seeds."""
    seeds = sorted(row.scores.keys() & other.scores.keys())
    deltas = np.array([row.scores[seed] - other.scores[seed] for seed in seeds])
    if len(deltas) < 2:
        return Difference(mean=float(deltas.mean()) if len(deltas) else math.nan, p=math.nan)
    if not np.ptp(deltas):  # Without spread the test statistic is 0 / 0, or infinite.
        return Difference(mean=float(deltas[0]), p=0.0 if deltas[0] else 1.0)
    return Difference(mean=float(deltas.mean()), p=float(stats.ttest_1samp(deltas, 0.0)[1]))


def markdown(
    rows: Sequence[Row],
    metric: str,
    extra: Mapping[str, Mapping[str, str]] | None = None,
    against: Mapping[str, str] | None = None,
) -> str:
    """A table: mean, standard deviation, seeds, and the paired test of each row against another.

    Args:
      rows: in order.
      metric: name and unit of the score.
      extra: further columns, heading -> {row: text}.
      against: the row that a row is compared with, by name; the first for those that it lacks.
    """
    extra, against = extra or {}, against or {}
    by_name = {row.name: row for row in rows}
    columns = ["row", metric, "std", "seeds", "against", "difference", "p", "paired test", *extra]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        seeds = f"{len(row.scores)}" + (f" ({row.failures} failed)" if row.failures else "")
        cells = [row.name, _number(row.mean), _number(row.std), seeds]
        other = by_name[against.get(row.name, rows[0].name)]
        if row is other:
            cells += ["", "", "", ""]
        else:
            delta = difference(row, other)
            cells += [other.name, _number(delta.mean, "+.2f"), _probability(delta.p), delta.verdict]
        cells += [column.get(row.name, "") for column in extra.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], metric: str, title: str, file: str | os.PathLike[str]) -> None:
    """A picture of every seed as a dot, with mean and standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        scores = list(row.scores.values())
        axes.plot(scores, [y] * len(scores), "o", color="tab:blue", alpha=0.45, markersize=5)
        if scores:
            spread = 0.0 if math.isnan(row.std) else row.std
            axes.errorbar(row.mean, y, xerr=spread, fmt="|", color="black", capsize=3, markersize=12)
    if not math.isnan(rows[0].mean):
        axes.axvline(rows[0].mean, color="0.7", linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # Rows without a score have their line as well.
    axes.set_xlabel(f"{metric}: seeds, mean and standard deviation")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else _number(p, ".3f")


def _number(value: float, form: str = ".2f") -> str:
    return "-" if math.isnan(value) else format(value, form)
