"""The counts of a network under the names of NeuroBench (Yik et al., Nature Communications, 2025).

    connection sparsity  Share of the weights that are zero, over all layers: here zero on the grid of their
                         bits. Scale, shift and the products of attention have no weights.
    activation sparsity  Share of the outputs of neurons that are zero, over all neurons of all layers, all
                         time steps and all images. Time steps here are the slots of the spike-driven form, D
                         in each of T time steps, where an output is 0 or 1. Every output counts alike,
                         however many operations it drives; `Report.firing_rate` weights them.
    effective MACs       Synaptic operations of an image whose weight and input are both nonzero, where the
                         input is not binary: layers that receive real values.
    effective ACs        The same where the input is binary: one addition for each spike, in each slot, and
                         each nonzero weight that it meets.
    membrane updates     Of an image: each neuron has one in each of T time steps.

Where its definitions leave a choice: normalisation and pooling count nothing, as there. NeuroBench counts
layers with weights and has no rule for the product of two activations, so the additions of attention are not
among the effective ACs; they are in `Report.additions`. It counts changes of the potential; a potential that
stays exactly as it was is counted here as well. The D slots read out one potential, so they are one update;
hardware that subtracts the threshold once for each spike makes up to D of it. Hardware may send a count as
one number and not as D spikes: then inputs are not binary and operations are MACs; this is not counted here.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.program import Linear, Program
from qsdt_jax.energy.rates import Activity
from qsdt_jax.energy.unfolded import Unfolded


@dataclasses.dataclass(frozen=True)
class NeuroBench:
    """The counts of one network; see this file for each.

    Attributes:
      connection_sparsity: 0..1; None of a network that cannot be folded, whose weights are on no grid.
      activation_sparsity: 0..1.
      effective_macs, effective_acs: of an image; None where they are not counted, see `counted.Run`.
      membrane_updates: of an image; of a detector's heads those of the regions in use.
    """

    connection_sparsity: float | None
    activation_sparsity: float
    effective_macs: float | None
    effective_acs: float | None
    membrane_updates: float


def neurobench(program: Program | FoldedDetector | Unfolded, activity: Activity) -> NeuroBench:
    """The counts of a network, from its weights and from what was measured of it."""
    histograms = list(activity.histograms.values())
    outputs = sum(int(histogram.sum()) for histogram in histograms)
    slots = sum(int(histogram.sum()) * (len(histogram) - 1) for histogram in histograms)
    spikes = sum(int(histogram @ np.arange(len(histogram))) for histogram in histograms)
    macs = acs = None
    if activity.effective:
        assert isinstance(program, Program)
        real = {layer.name for layer in program.layers if not layer.spikes}
        macs = sum(n for name, n in activity.effective.items() if name in real)
        acs = sum(n for name, n in activity.effective.items() if name not in real)
    return NeuroBench(
        connection_sparsity=None if isinstance(program, Unfolded) else connection_sparsity(program),
        activation_sparsity=1 - spikes / slots,
        effective_macs=macs,
        effective_acs=acs,
        membrane_updates=outputs / activity.images,
    )


def connection_sparsity(program: Program | FoldedDetector) -> float:
    """Share of the weights of a folded network that are zero."""
    layers = _layers(program)
    zeros = sum(int(np.sum(np.asarray(layer.weights) == 0)) for layer in layers)
    return zeros / sum(layer.weights.size for layer in layers)


def neurobench_rows(counts: NeuroBench) -> list[tuple[str, float, str]]:
    """Name, number and format of each count; those that are not known are left out."""
    rows: Sequence[tuple[str, float | None, str]] = (
        ("connection sparsity", counts.connection_sparsity, ".4f"),
        ("activation sparsity", counts.activation_sparsity, ".4f"),
        ("effective MACs", counts.effective_macs, ",.0f"),
        ("effective ACs", counts.effective_acs, ",.0f"),
        ("membrane updates", counts.membrane_updates, ",.0f"),
    )
    return [(name, number, form) for name, number, form in rows if number is not None]


def _layers(program: Program | FoldedDetector) -> list[Linear]:
    if isinstance(program, FoldedDetector):
        parts = (program.pyramid, program.rpn, program.box_head, program.mask_head)
        return [layer for part in parts for layer in part.layers]
    return program.layers
