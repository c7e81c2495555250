"""What a network needs on the machine of a hardware profile: by part, in total, and in a sentence."""

import functools
from collections.abc import Callable, Iterable

import numpy as np
from scipy.optimize import brentq

from qsdt_jax.energy.conventions import Energy, Firing, parts_of
from qsdt_jax.energy.profile import Profile
from qsdt_jax.energy.report import MILLI_JOULE, Report, comparison

ROUTING = "routing"


def priced(report: Report, profile: Profile) -> dict[str, Energy]:
    """Picojoule of an image for "arithmetic", "SRAM", "DRAM" and "routing".

    Routed are the spikes of all neurons, of a detector's heads those of the regions in use. The networks
    without spikes route none: their activations go through SRAM.
    """
    return _priced(report, profile, report.activity.count)


def profile_table(report: Report, profile: Profile) -> list[tuple[str, ...]]:
    """Rows of text: the parts and their total."""
    parts = priced(report, profile)
    rows = {**parts, "total": _total(parts.values())}
    return [
        ("mJ an image", "spiking", "quantised ANN", "float ANN"),
        *((name, *(f"{energy * MILLI_JOULE:.4g}" for energy in row)) for name, row in rows.items()),
    ]


def profile_sentences(report: Report, profile: Profile) -> list[str]:
    """What the spiking network needs, of what most of it is, how its twin compares; and the sources."""
    parts = priced(report, profile)
    total = _total(parts.values())
    shares = [f"{name} {100 * part.spiking / total.spiking:.1f} %" for name, part in parts.items()]
    return [
        f"{profile.name}: {total.spiking * MILLI_JOULE:.4g} mJ an image ({', '.join(shares)}); "
        f"{comparison(total, _turning_rate(report, profile), report.firing_rate)}",
        *(f"source: {source}" for source in profile.sources),
        " ".join(f"note: {profile.note}".split()),
    ]


def _priced(report: Report, profile: Profile, count: Callable[[str], float]) -> dict[str, Energy]:
    firing, activity = Firing(report.levels, count), report.activity
    layers = [parts_of(row.layer, firing, profile.prices) for row in report.layers]
    found = {name: _total(parts[name] for parts in layers) for name in layers[0]}
    routed = 0.0
    for name, histogram in activity.histograms.items():
        outputs = float(np.sum(histogram)) / activity.images
        routed += profile.routing.of_spikes(outputs * count(name), count(name) / report.levels)
    return {**found, ROUTING: Energy(routed, 0.0, 0.0)}


def _total(energies: Iterable[Energy]) -> Energy:
    return functools.reduce(Energy.__add__, energies)


def _turning_rate(report: Report, profile: Profile) -> float | None:
    """The firing rate, alike in all layers, at which both networks need the same; None outside 0..1."""

    def excess(rate: float) -> float:
        total = _total(_priced(report, profile, lambda _: rate * report.levels).values())
        return total.spiking - total.quantized_ann

    # It grows with the rate, so it is zero at one rate or none.
    return None if excess(0.0) * excess(1.0) >= 0 else float(brentq(excess, 0.0, 1.0))
