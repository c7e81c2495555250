"""How far the firing of two networks is apart: of two with equal accuracy, whether they are alike inside.

The earth mover's distance (Wasserstein-1) of two distributions of spike counts is the least number of spikes
by which outputs must change, in the mean, for one distribution to become the other. On whole numbers it is
the sum over c of |F(c) - G(c)|, F and G the shares of counts up to c. It compares distributions, not outputs
one by one: at 0 two networks may still fire in other places.
"""

from collections.abc import Mapping

import numpy as np

from qsdt_jax.energy.rates import Activity
from qsdt_jax.energy.report import Section, as_csv
from qsdt_jax.errors import UserError

SHOWN = 8  # Neurons in the table.


def earth_movers_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of two histograms of counts 0..D, (D + 1,) each, in spikes; neither total nor D need be the same."""
    levels = max(len(ours), len(theirs))
    shares = [np.cumsum(np.pad(x, (0, levels - len(x)))) / np.sum(x) for x in (ours, theirs)]
    return float(np.sum(np.abs(shares[0] - shares[1])))


def distances(ours: Activity, theirs: Activity) -> dict[str, float]:
    """The distance of each layer of neurons that both networks have, in our order.

    Raises:
      UserError: there is none.
    """
    shared = [name for name in ours.histograms if name in theirs.histograms]
    if not shared:
        mine, other = (next(iter(activity.histograms)) for activity in (ours, theirs))
        raise UserError(
            f"expected neurons that both networks have, found none: one begins with {mine}, the other with "
            f"{other}"
        )
    return {name: earth_movers_distance(ours.histograms[name], theirs.histograms[name]) for name in shared}


def distance_section(other: str, ours: Activity, theirs: Activity) -> Section:
    """The layers of neurons that are farthest apart, and the mean over all that both networks have.

    Args:
      other: what the other network is called.
      ours, theirs: of both, measured on the same images.
    """
    found = distances(ours, theirs)
    farthest = sorted(found, key=lambda name: -found[name])[:SHOWN]
    rows = [
        (name, f"{found[name]:.4f}", f"{ours.count(name):.4f}", f"{theirs.count(name):.4f}")
        for name in farthest
    ]
    alone = len(ours.histograms.keys() ^ theirs.histograms.keys())
    without = f"; {alone} that only one of them has are left out" if alone else ""
    mean = sum(found.values()) / len(found)
    return Section(
        [("neurons", "distance", "mean count", "of the other"), *rows],
        [
            f"beside {other}: the spike counts of the {len(found)} layers of neurons that both have are "
            f"{mean:.4f} spikes apart in the mean (earth mover's distance), most in {farthest[0]} "
            f"({found[farthest[0]]:.4f}){without}"
        ],
    )


def distances_csv(found: Mapping[str, float]) -> str:
    """One row for each layer of neurons that both have."""
    return as_csv([("neuron", "distance"), *((name, f"{value:.6g}") for name, value in found.items())])
