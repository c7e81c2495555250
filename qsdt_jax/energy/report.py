"""The energy of a network as tables: per layer, in total, and in a sentence that follows from the numbers."""

import csv
import dataclasses
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.program import Program
from qsdt_jax.detection.inference import Settings
from qsdt_jax.energy.conventions import CONVENTIONS, Energy, Firing, additions
from qsdt_jax.energy.layer import Layer
from qsdt_jax.energy.neurobench import NeuroBench, neurobench, neurobench_rows
from qsdt_jax.energy.operations import layers_of
from qsdt_jax.energy.rates import Activity
from qsdt_jax.energy.unfolded import Unfolded

GIGA, MILLI_JOULE = 1e9, 1e-9  # A picojoule is 1e-9 mJ.
# The firing rate below which a spiking network needs less than its quantised twin, by a published study.
QUOTED, QUOTED_RATE = "a study, quoted", "6 %"


class Section(NamedTuple):
    """A part of the report for readers: a table, its first row the heading, and what follows from it."""

    table: Sequence[Sequence[str]]
    sentences: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class LayerEnergy:
    """One layer with its energies in picojoule for one image, by convention."""

    layer: Layer
    count: float | None
    additions: float
    energy: Mapping[str, Energy]


@dataclasses.dataclass(frozen=True)
class Report:
    """The energy of a network on a split.

    Attributes:
      layers: in the order in which they run.
      activity: what was measured.
      levels, timesteps: D and T.
      bits: the numbers of weight bits that the layers have.
      neurobench: its counts under the names of NeuroBench.
    """

    layers: Sequence[LayerEnergy]
    activity: Activity
    levels: int
    timesteps: int
    bits: tuple[int, ...]
    neurobench: NeuroBench

    @functools.cached_property
    def totals(self) -> Mapping[str, Energy]:
        """Picojoule for one image, by convention."""
        return {
            name: functools.reduce(Energy.__add__, (row.energy[name] for row in self.layers))
            for name in CONVENTIONS
        }

    @property
    def macs(self) -> int:
        return sum(row.layer.macs for row in self.layers)

    @property
    def additions(self) -> float:
        """Synaptic operations (SOPs) for one image."""
        return sum(row.additions for row in self.layers)

    @property
    def firing_rate(self) -> float:
        """Share of the slots that carry a spike, a neuron weighted by the multiply-accumulates it drives."""
        driven = sum(row.layer.macs for row in self.layers if row.layer.spikes)
        return self.additions / (driven * self.levels)

    @property
    def multiplications(self) -> int:
        """Multiply-accumulates of the layers that receive real values."""
        return sum(row.layer.macs for row in self.layers if row.layer.spikes is None)


def make_report(
    program: Program | FoldedDetector | Unfolded,
    image_size: tuple[int, int],
    activity: Activity,
    settings: Settings | None = None,
) -> Report:
    """Prices every layer of a program under every convention; arguments as of `operations.layers_of`."""
    firing = Firing(program.neuron.levels, activity.count)
    rows = [
        LayerEnergy(
            layer=layer,
            count=activity.count(layer.spikes) if layer.spikes else None,
            additions=additions(layer, firing),
            energy={name: price(layer, firing) for name, price in CONVENTIONS.items()},
        )
        for layer in layers_of(program, image_size, settings)
    ]
    return Report(
        layers=rows,
        activity=activity,
        levels=program.neuron.levels,
        timesteps=program.neuron.timesteps,
        bits=program.bits,
        neurobench=neurobench(program, activity),
    )


def verdicts(report: Report) -> list[str]:
    """For each convention one sentence: which network it favours, and the firing rate where that turns."""
    return [
        *(
            f"{name}: {comparison(total, _turning_rate(report, name), report.firing_rate)}"
            for name, total in report.totals.items()
        ),
        f"{QUOTED}: of hardware that counts more of the memory; spikes pay below about {QUOTED_RATE} firing",
    ]


def comparison(total: Energy, turn: float | None, firing_rate: float) -> str:
    """A clause: which network needs less, and the firing rate where that turns, None if it never does."""
    ratio = total.quantized_ann / total.spiking
    better = f"{ratio:.2f} times less" if ratio > 1 else f"{1 / ratio:.2f} times more"
    where = "at any firing rate"
    if turn is not None:
        here = f"{100 * firing_rate:.1f} %"
        where = f"they are even where {100 * turn:.1f} % of all slots fire, and here {here} do"
    return f"the spiking network needs {better} than its quantised ANN twin; {where}"


def _turning_rate(report: Report, convention: str) -> float | None:
    """The firing rate, alike in all layers, at which both networks need the same; None outside 0..1."""

    def excess(rate: float) -> float:
        firing = Firing(report.levels, lambda _: rate * report.levels)
        energies = [CONVENTIONS[convention](row.layer, firing) for row in report.layers]
        return sum(energy.spiking - energy.quantized_ann for energy in energies)

    nothing, everything = excess(0.0), excess(1.0)  # Energies are linear in the rate.
    if nothing * everything >= 0:
        return None
    return nothing / (nothing - everything)


def totals_table(report: Report) -> list[tuple[str, ...]]:
    """Rows of text: totals by convention, and the firing rate where the first two networks are even."""
    rows: list[tuple[str, ...]] = [("mJ an image", "spiking", "quantised ANN", "float ANN", "even at firing")]
    for name, total in report.totals.items():
        turn = _turning_rate(report, name)
        even = "no rate" if turn is None else f"{100 * turn:.1f} %"
        rows.append((name, *(f"{energy * MILLI_JOULE:.4g}" for energy in total), even))
    return [*rows, (QUOTED, "", "", "", QUOTED_RATE)]


def console_table(report: Report) -> str:
    """`totals_table` in columns."""
    return in_columns(totals_table(report))


def in_columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows of text in columns, the first one to the left."""
    rows = list(rows)
    width = 1 + max(len(name) for name, *_ in rows)
    return "\n".join(f"{name:<{width}}" + "".join(f"{cell:>16}" for cell in cells) for name, *cells in rows)


def neurobench_table(report: Report) -> list[tuple[str, str]]:
    """Rows of text: the counts of an image under the names of NeuroBench; those not known are left out."""
    return [
        ("NeuroBench", "of an image"),
        *((name, format(number, form)) for name, number, form in neurobench_rows(report.neurobench)),
    ]


def neurobench_csv(report: Report) -> str:
    """The same as numbers."""
    rows = ((name, f"{number:.9g}") for name, number, _ in neurobench_rows(report.neurobench))
    return as_csv([("name", "number"), *rows])


def csv_table(report: Report) -> str:
    """One row a layer: all that its energies follow from, for one image, and the picojoules.

    `input` names the counts that come in, `entering` those at the head of the layer's chain, whose mean count
    the convention `paper` takes; `firing_rate` is that of `entering`. `effective_operations` are those of
    `neurobench`: MACs where the input is real, ACs where it spikes; empty where they are not counted.
    """
    header = "layer kind macs weights bits D T inputs outputs input mean_count additions entering firing_rate"
    header += " effective_operations"
    prices = [f"{name} {kind} pJ" for name in CONVENTIONS for kind in Energy._fields]
    rows: list[list[object]] = [[*header.split(), *prices]]
    for row in report.layers:
        layer, entering = row.layer, row.layer.entering
        cells = [layer.name, layer.kind, layer.macs, layer.weights, layer.bits]
        cells += [report.levels, report.timesteps, layer.inputs, layer.outputs, layer.spikes or "real"]
        cells += ["" if row.count is None else f"{row.count:.6g}", f"{row.additions:.6g}"]
        cells += [entering, f"{report.activity.firing_rate(entering):.6g}"] if entering else ["", ""]
        effective = report.activity.effective.get(layer.name)
        cells.append("" if effective is None else f"{effective:.9g}")
        cells += [f"{value:.6g}" for name in CONVENTIONS for value in row.energy[name]]
        rows.append(cells)
    return as_csv(rows)


def levels_table(report: Report) -> str:
    """One row for each part of the network at each stride, in the order in which they run.

    A part is what the first word of a layer's path names: a block, the neck, the head. `firing_rate` is that
    of the spikes that come in, a neuron weighted by the multiply-accumulates it drives.
    """
    rows: list[list[object]] = [["part", "stride", "macs", "real_macs", "additions", "firing_rate"]]
    levels: dict[tuple[str, int], list[LayerEnergy]] = {}
    for row in report.layers:
        levels.setdefault((row.layer.name.partition("/")[0], row.layer.stride), []).append(row)
    for level, found in levels.items():
        macs = sum(row.layer.macs for row in found)
        real = sum(row.layer.macs for row in found if row.layer.spikes is None)
        additions = sum(row.additions for row in found)
        rate = f"{additions / ((macs - real) * report.levels):.6g}" if macs > real else ""
        rows.append([*level, macs, real, f"{additions:.6g}", rate])
    return as_csv(rows)


def neurons_table(report: Report) -> str:
    """One row a neuron, in the order in which they fire: its rate, and how often it gave each count."""
    activity, counts = report.activity, range(report.levels + 1)
    rows: list[list[object]] = [["neuron", "firing_rate", "mean_count", *(f"count_{c}" for c in counts)]]
    for name, histogram in activity.histograms.items():
        rates = [f"{activity.firing_rate(name):.6g}", f"{activity.count(name):.6g}"]
        rows.append([name, *rates, *map(int, histogram)])
    return as_csv(rows)


def as_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as the text of a CSV file."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
