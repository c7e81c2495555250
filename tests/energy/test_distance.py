"""The distance of firing distributions, against SciPy's."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from qsdt_jax.energy.distance import distance_section, distances, distances_csv, earth_movers_distance
from qsdt_jax.energy.rates import Activity
from qsdt_jax.errors import UserError


@pytest.mark.parametrize(("levels", "others"), [(4, 4), (8, 4), (1, 4), (1, 1)])
def test_it_is_wasserstein_1(levels, others):
    generator = np.random.default_rng(levels)
    for _ in range(5):
        ours, theirs = (
            generator.integers(0, 50, n + 1) + np.eye(n + 1, dtype=int)[0] for n in (levels, others)
        )
        expected = wasserstein_distance(np.arange(levels + 1), np.arange(others + 1), ours, theirs)
        assert earth_movers_distance(ours, theirs) == pytest.approx(expected, rel=1e-12)
        assert earth_movers_distance(theirs, ours) == pytest.approx(expected, rel=1e-12)
        assert earth_movers_distance(ours, 7 * ours) == pytest.approx(0, abs=1e-12)


def test_means_may_be_equal_and_distributions_apart():
    assert earth_movers_distance(np.array([0, 0, 9, 0, 0]), np.array([2, 0, 0, 0, 2])) == 2
    assert earth_movers_distance(np.array([5, 0, 0]), np.array([0, 0, 5])) == 2


def activity(**histograms: list[int]) -> Activity:
    return Activity({name: np.array(histogram) for name, histogram in histograms.items()}, {}, 1)


def test_layers_that_both_have():
    ours = activity(a=[4, 0, 0], b=[0, 4, 0], only=[1, 1, 1], c=[2, 2, 0])
    theirs = activity(c=[2, 2, 0], b=[0, 0, 1], a=[3, 1, 0], other=[1, 0, 0])
    found = distances(ours, theirs)
    assert found == {"a": 0.25, "b": 1.0, "c": 0.0} and list(found) == ["a", "b", "c"]
    (_, *rows), (sentence,) = distance_section("theirs.qsdt", ours, theirs)
    assert rows[0] == ("b", "1.0000", "1.0000", "2.0000") and [row[0] for row in rows] == ["b", "a", "c"]
    assert sentence == (
        "beside theirs.qsdt: the spike counts of the 3 layers of neurons that both have are 0.4167 spikes "
        "apart in the mean (earth mover's distance), most in b (1.0000); 2 that only one of them has are "
        "left out"
    )
    assert distances_csv(found).splitlines() == ["neuron,distance", "a,0.25", "b,1", "c,0"]


def test_networks_without_a_layer_in_common_are_refused():
    told = "^expected neurons that both networks have, found none: one begins with a, the other with b$"
    with pytest.raises(UserError, match=told):
        distances(activity(a=[1, 0]), activity(b=[1, 0]))
