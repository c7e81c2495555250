"""Rows of an ablation compared over seeds: table, paired tests and picture.

The verdict is that of the exact sign-flip test (Fisher, "The Design of Experiments", 1935). If two rows are
alike, each seed's difference may as well have the other sign. So p is the share of all 2^n ways to give the
n differences their signs whose mean is at least as far from 0 as the one found. The test takes no
distribution for granted. Its p is never less than 2 / 2^n, so it separates nothing with few seeds, however
large or equal the differences are. The paired t-test stands beside it, for comparison with other papers; it
takes the differences for normal.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

SIGNIFICANT = 0.05  # p below which the data separate two rows.
FEWEST_SEEDS = math.floor(math.log2(2 / SIGNIFICANT)) + 1  # 6: with 5 no p is below 2 / 2^5 = 0.0625.
EXACT_SEEDS = 20  # Up to here all sign assignments are taken, half a million but for their mirror images;
DRAWN_SIGNS = 100_000  # beyond, so many random ones.
# Scores are shares of whole images, so differences that are equal on paper differ by their rounding alone.
ROUNDING = 1e-9
LEGEND = (
    f"Verdict: separated where the exact two-sided sign-flip test of the paired differences has "
    f"p < {SIGNIFICANT:g}, not corrected for the number of rows. With fewer than {FEWEST_SEEDS} seeds "
    f"that test can separate nothing, so there is no verdict and no p. Range: the smallest and the "
    f"largest difference of a seed."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The score of one variant with each seed.

    Attributes:
      name: of the variant.
      scores: by seed.
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
      by_seed: the differences.
      p: of the two-sided sign-flip test; not a number without a seed.
      t_test: p of the two-sided paired t-test; not a number for fewer than two seeds, and where the
        differences are all the same, so that their spread is unknown.
    """

    by_seed: tuple[float, ...]
    p: float
    t_test: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.by_seed)) if self.by_seed else math.nan

    @property
    def verdict(self) -> str:
        seeds = len(self.by_seed)
        if seeds and not any(self.by_seed):
            return f"equal in {seeds} seed" + "s" * (seeds > 1)
        if seeds < FEWEST_SEEDS:
            return f"too few seeds for a verdict ({seeds} of {FEWEST_SEEDS})"
        return "separated" if self.p < SIGNIFICANT else "not separated"


def difference(row: Row, other: Row) -> Difference:
    """row - other over their common seeds, with both tests."""
    seeds = sorted(row.scores.keys() & other.scores.keys())
    deltas = np.array([row.scores[seed] - other.scores[seed] for seed in seeds])
    scores = [abs(r.scores[seed]) for r in (row, other) for seed in seeds]
    rounding = ROUNDING * max(scores, default=0.0)
    deltas[np.abs(deltas) <= rounding] = 0.0
    spread = len(deltas) > 1 and np.ptp(deltas) > rounding
    return Difference(
        by_seed=tuple(deltas.tolist()),
        p=sign_flip_test(deltas, rounding),
        t_test=float(stats.ttest_1samp(deltas, 0.0)[1]) if spread else math.nan,
    )


def sign_flip_test(deltas: np.ndarray, rounding: float = 0.0) -> float:
    """p of the two-sided sign-flip test that the differences are symmetric around 0.

    Args:
      deltas: (n,) paired differences. Up to 20 all sign assignments count, so p is exact; beyond, 100,000
        random ones and the one found, always the same for equal n.
      rounding: error of a difference, within which two sums are the same.

    Returns:
      The share of sign assignments whose sum is at least as far from 0; not a number for n = 0.
    """
    if not len(deltas):
        return math.nan
    least = abs(np.sum(deltas)) - rounding * len(deltas)
    if len(deltas) > EXACT_SEEDS:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), (DRAWN_SIGNS, len(deltas)))
        return float(1 + np.sum(np.abs(signs @ deltas) >= least)) / (1 + DRAWN_SIGNS)
    sums = deltas[:1]  # The first keeps its sign: turning all of them changes no distance from 0.
    for delta in deltas[1:]:
        sums = np.concatenate([sums + delta, sums - delta])
    return float(np.mean(np.abs(sums) >= least))


def markdown(
    rows: Sequence[Row],
    metric: str,
    extra: Mapping[str, Mapping[str, str]] | None = None,
    against: Mapping[str, str] | None = None,
    *,
    form: str = ".2f",
) -> str:
    """A table: mean, standard deviation, seeds, and the paired tests of each row against another; a legend.

    Args:
      rows: in order.
      metric: name and unit of the score.
      extra: further columns, heading -> {row: text}.
      against: the row that a row is compared with, by name; the first for those that it lacks.
      form: of a score, as a format specification.
    """
    extra, against = extra or {}, against or {}
    by_name = {row.name: row for row in rows}
    compared = ["against", "difference", "range", "p", "p (t-test)", "verdict"]
    columns = ["row", metric, "std", "seeds", *compared, *extra]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        seeds = f"{len(row.scores)}" + (f" ({row.failures} failed)" if row.failures else "")
        cells = [row.name, _number(row.mean, form), _number(row.std, form), seeds]
        other = by_name[against.get(row.name, rows[0].name)]
        if row is other:
            cells += [""] * len(compared)
        else:
            cells += [other.name, *_comparison(difference(row, other), form)]
        cells += [column.get(row.name, "") for column in extra.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{LEGEND}\n"


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


def _comparison(delta: Difference, form: str) -> list[str]:
    """Mean, range, both p and verdict; no p that nobody may conclude from."""
    if not delta.by_seed:
        return ["-", "-", "-", "-", delta.verdict]
    least, most = min(delta.by_seed), max(delta.by_seed)
    judged = len(delta.by_seed) >= FEWEST_SEEDS
    p = [_probability(p) if judged else "-" for p in (delta.p, delta.t_test)]
    return [_number(delta.mean, "+" + form), f"{least:+{form}} to {most:+{form}}", *p, delta.verdict]


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else _number(p, ".3f")


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
