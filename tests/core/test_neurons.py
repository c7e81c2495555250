"""Neurons against a NumPy reference that follows the formulas one element and one step at a time."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.neurons import fire, make_neuron, spike_count


def reference_counts(currents, *, levels, scale, threshold, decay, reset):
    """Counts (T,) of one neuron for its currents (T,)."""
    membrane, emitted = 0.0, []
    for current in currents:
        membrane += current
        count = math.floor(min(max(scale * membrane - (threshold - 0.5), 0), levels) + 0.5)
        emitted.append(count)
        if reset == "hard" and count:
            membrane = 0.0
        elif reset == "soft":
            membrane -= count / scale
        membrane *= decay
    return emitted


@pytest.mark.parametrize("levels", [1, 2, 4, 8])
def test_ie_lif_counts_follow_the_formula(levels):
    u = np.linspace(-1, 2, 3001)
    spikes = fire(jnp.asarray(u, jnp.float32)[None], make_neuron("ie_lif", levels=levels))
    u32 = u.astype(np.float32)
    expected = np.floor(np.clip(np.float32(levels) * u32, 0, levels) + np.float32(0.5))
    assert np.array_equal(spikes.counts[0], expected)
    assert set(np.unique(spikes.counts)) == set(range(levels + 1))
    assert spikes.step == 1 / levels and spikes.levels == levels


def test_half_rounds_up_not_to_even():
    u = jnp.array([0.125, 0.375, 0.625, 0.875])  # D * u = 0.5, 1.5, 2.5, 3.5
    assert np.array_equal(spike_count(u, make_neuron(levels=4)), [1, 2, 3, 4])


def test_published_output_values():
    spikes = fire(jnp.array([[-3.0, 0.2, 0.5, 0.8, 9.0]]), make_neuron(levels=4))
    assert np.array_equal(spikes.values[0], [0, 0.25, 0.5, 0.75, 1])


def test_i_lif_counts_are_not_divided():
    spikes = fire(jnp.array([[0.4, 0.5, 2.4, 9.0]]), make_neuron("i_lif", levels=4))
    assert np.array_equal(spikes.values[0], [0, 1, 2, 4])


def test_lif_fires_at_its_threshold():
    spikes = fire(jnp.array([[0.5, 0.9999999, 1.0, 5.0]]), make_neuron("lif", levels=1))
    assert np.array_equal(spikes.counts[0], [0, 0, 1, 1])


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize(
    ("kind", "levels", "decay"),
    [("ie_lif", 4, None), ("i_lif", 4, None), ("lif", 1, None), ("ie_lif", 2, 0.9)],
)
def test_membrane_over_time(kind, levels, decay, reset):
    timesteps = 5
    neuron = make_neuron(kind, levels=levels, timesteps=timesteps, decay=decay, reset=reset)
    currents = np.random.default_rng(0).uniform(-0.5, 1.6, (3, timesteps, 40))
    with jax.enable_x64(True):
        counts = fire(jnp.asarray(currents.reshape(-1, 40)), neuron).counts
    expected = [
        [
            reference_counts(
                image[:, i],
                levels=levels,
                scale=neuron.scale,
                threshold=neuron.threshold,
                decay=neuron.decay,
                reset=reset,
            )
            for i in range(40)
        ]
        for image in currents
    ]
    assert np.array_equal(np.asarray(counts).reshape(3, timesteps, 40), np.swapaxes(expected, 1, 2))
    assert 0 < np.mean(counts) < levels


def leaky_membranes(currents, decay, threshold):
    """(T,) before the resets, of a neuron that approaches its input, u + (x - u) / tau, and goes to 0."""
    u, membranes = 0.0, []
    for x in currents:
        u = u + (x - u) * (1 - decay)
        membranes.append(u)
        u = 0.0 if u >= threshold else u
    return membranes


@pytest.mark.parametrize("decay", [0.5, 0.75])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("timesteps", [1, 6])
@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_an_input_that_decays_with_the_membrane(decay, learned, timesteps, threshold):
    """A learned decay of the same value gives the same spikes; one at the threshold itself is among them."""
    options = {"timesteps": timesteps, "decay": decay, "reset": "hard", "learned_decay": learned}
    neuron = make_neuron("lif", levels=1, decay_input=not learned, **options)
    assert neuron.step == 1  # A spike is worth what it is without.
    currents = np.random.default_rng(2).integers(-8, 24, (50, timesteps)) / 4.0
    membranes = np.array([leaky_membranes(image, decay, threshold) for image in currents])
    found = fire(
        jnp.asarray(currents.reshape(-1, 1), jnp.float32),
        dataclasses.replace(neuron, threshold=threshold),
        jnp.float32(1 - decay) if learned else None,
    )
    assert np.array_equal(found.counts.reshape(currents.shape), membranes >= threshold)
    assert np.any(membranes == threshold) and 0.1 < np.mean(membranes >= threshold) < 0.9


def test_gradient_where_the_input_decays():
    """The surrogate stands at u - threshold; du[1]/dx[1] is 1/2, du[2]/dx[1] a quarter where none fired."""
    neuron = make_neuron("lif", levels=1, timesteps=2, decay_input=True, reset="hard", surrogate="sigmoid")
    neuron = dataclasses.replace(neuron, threshold=0.75)

    def slope(z):
        y = 1 / (1 + math.exp(-4 * z))
        return 4 * y * (1 - y)

    gradient = jax.grad(lambda x: fire(x, neuron).values[1, 0])
    quiet, fired = gradient(jnp.array([[1.0], [0.5]])), gradient(jnp.array([[2.0], [0.5]]))
    expected = slope(0.5 - 0.75)  # u[2] = (1 / 2 + 0.5) / 2 = 0.5.
    assert np.allclose(quiet[:, 0], [expected / 4, expected / 2], rtol=1e-6)
    assert np.allclose(fired[:, 0], [0, slope(0.25 - 0.75) / 2], rtol=1e-6)


def test_a_soft_reset_takes_what_a_spike_stands_for():
    """With D = 2 a spike of an IE-LIF neuron is worth 1/2, of which u has as much."""
    neuron = make_neuron(levels=2, timesteps=2, decay=0.5, decay_input=True)
    counts = fire(jnp.array([[3.0], [0.375]]), neuron).counts  # u = 1.5, of which 1 goes; 0.25 + 0.1875.
    assert np.array_equal(counts[:, 0], [2, 1])
    counts = fire(jnp.array([[2.0], [0.375]]), neuron).counts  # u = 1, of which all goes; 0 + 0.1875.
    assert np.array_equal(counts[:, 0], [2, 0])


def test_gradients_of_an_input_that_decays():
    """Of the second step, whose membrane is (1 - s) s x[1] + s x[2] with s = 1 - decay."""
    first, second, share = 0.5, 1.2, 0.3
    membrane = (1 - share) * share * first + share * second
    slope = 1 / (1 + (np.pi * (membrane - 1)) ** 2)
    options = {"levels": 1, "timesteps": 2, "decay": 1 - share, "reset": "hard", "surrogate": "arctan"}
    fixed = make_neuron("lif", decay_input=True, **options)
    learned = make_neuron("lif", learned_decay=True, **options)
    with jax.enable_x64(True):
        x = jnp.array([[first], [second]])
        by_fixed = jax.grad(lambda x: fire(x, fixed).counts[1, 0])(x)
        by_learned, by_share = jax.grad(lambda x, s: fire(x, learned, s).counts[1, 0], (0, 1))(x, share)
    expected = np.array([[(1 - share) * share], [share]]) * slope
    np.testing.assert_allclose(by_fixed, expected, rtol=1e-12)
    np.testing.assert_allclose(by_learned, expected, rtol=1e-12)
    np.testing.assert_allclose(by_share, ((1 - 2 * share) * first + second) * slope, rtol=1e-12)


def test_quantized_relu_is_ie_lif_without_memory():
    x = jax.random.normal(jax.random.key(0), (6, 10))
    one_step = fire(x, make_neuron("ie_lif"))
    three_steps = fire(x, make_neuron("quantized_relu", timesteps=3))
    assert np.array_equal(one_step.counts, three_steps.counts)
    assert not np.array_equal(one_step.counts, fire(x, make_neuron("ie_lif", timesteps=3)).counts)


@pytest.mark.parametrize("levels", [1, 4])
def test_straight_through_gradient_on_the_open_interval(levels):
    neuron = make_neuron(levels=levels)
    u = jnp.array([-0.1, 0.0, 1e-6, 0.5, 1 - 1e-6, 1.0, 1.1])
    slope = jax.vmap(jax.grad(lambda x: neuron.step * spike_count(x, neuron)))(u)
    assert np.array_equal(slope, [0, 0, 1, 1, 1, 0, 0])


def test_reset_path_carries_no_gradient():
    """With decay b, dc[2]/dx[1] is b and nothing comes back through the spike of the first step."""
    neuron = make_neuron(levels=4, timesteps=2, decay=0.3)
    x = jnp.array([[0.6], [0.2]])
    gradient = jax.grad(lambda v: neuron.step * fire(v, neuron).counts[1, 0])(x)
    assert np.allclose(gradient[:, 0], [0.3, 1.0], atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"levels": 0}, "levels"),
        ({"timesteps": 0}, "timesteps"),
        ({"kind": "lif", "levels": 4}, "binary"),
        ({"kind": "izhikevich"}, "unknown neuron"),
        ({"decay": 1.5}, "decay"),
        ({"decay": 1.0, "decay_input": True}, "decay must be below 1 where the input decays"),
        ({"kind": "quantized_relu", "learned_decay": True}, "decay must be between 0 and 1"),
        ({"reset": "none"}, "reset"),
        ({"surrogate": "step"}, "surrogate"),
    ],
)
def test_values_out_of_range_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_neuron(**arguments)


def test_frames_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of 3"):
        fire(jnp.zeros((4, 2)), make_neuron(timesteps=3))
