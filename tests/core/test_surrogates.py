"""Surrogates against their definitions: bumps of unit area that add up over the levels."""

import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.surrogates import surrogate_slope

SHAPES = ["straight_through", "rectangular", "triangle", "sigmoid", "arctan"]


@pytest.mark.parametrize("surrogate", SHAPES)
@pytest.mark.parametrize("levels", [1, 4])
def test_area_is_the_number_of_levels(surrogate, levels):
    """Integrated over the potential, the slope gives the height of the staircase."""
    v = np.linspace(-500, 500, 2_000_001) + 1e-4
    slope = np.asarray(surrogate_slope(jnp.asarray(v, jnp.float32), levels, surrogate), np.float64)
    area = slope.sum() * (v[1] - v[0])
    assert area == pytest.approx(levels, rel=1e-3)


@pytest.mark.parametrize(
    ("surrogate", "formula"),
    [
        ("rectangular", lambda x: (abs(x) < 0.5) * 1.0),
        ("triangle", lambda x: np.maximum(0, 1 - abs(x))),
        ("sigmoid", lambda x: 4 * np.exp(-4 * x) / (1 + np.exp(-4 * x)) ** 2),
        ("arctan", lambda x: 1 / (1 + (np.pi * x) ** 2)),
    ],
)
def test_binary_neuron_has_the_bump_at_its_threshold(surrogate, formula):
    v = np.linspace(-2, 3, 101) + 1e-3
    slope = surrogate_slope(jnp.asarray(v, jnp.float32), 1, surrogate)
    assert np.allclose(slope, formula(v - 0.5), atol=1e-5)


def test_rectangular_bumps_tile_to_the_straight_through_gradient():
    v = jnp.linspace(-1, 5, 600) + 1e-3
    assert np.array_equal(surrogate_slope(v, 4, "rectangular"), surrogate_slope(v, 4, "straight_through"))


def test_unknown_surrogate_is_refused():
    with pytest.raises(ValueError, match="unknown surrogate"):
        surrogate_slope(jnp.zeros(1), 1, "cosine")  # pyright: ignore[reportArgumentType]
