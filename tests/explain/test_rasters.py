"""Rasters: their spikes are those of the spike-driven form, in its order."""

import jax.numpy as jnp
import numpy as np

from qsdt_jax.deploy import spike_driven
from qsdt_jax.explain.rasters import rasters, stage_of

LEVELS = 4


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, LEVELS + 1, shape, dtype=np.int8)


def test_neurons_belong_to_the_stage_that_their_block_names():
    stages = {
        "conv_block1_1/sepconv/neuron1": "stage 1",
        "downsample2/neuron": "stage 2",
        "block3_10/attn/q_neuron": "stage 3",
        "block4_0/mlp/neuron1": "stage 4",
        "stage2_dssa1/neuron": "stage 2",
        "head_neuron": "head",
    }
    assert {name: stage_of(name) for name in stages} == stages


def test_a_raster_has_every_neuron_where_there_are_few():
    """Rows are neurons in the order of depth; sums over a time step's columns are its counts."""
    first, second = draw(2, 2, 3), draw(2, 4)
    [raster] = rasters({"block3_0/a": first, "block3_1/b": second}, LEVELS)
    assert raster.stage == "stage 3" and raster.neurons == 10 and raster.spikes.shape == (10, 2 * LEVELS)
    counts = np.concatenate([first.reshape(2, -1), second], axis=1)  # (T, N)
    sums = raster.spikes.reshape(10, 2, LEVELS).sum(2)
    np.testing.assert_array_equal(sums, counts.T)
    assert raster.rate == counts.sum() / (2 * 10 * LEVELS)
    # Of each time step the spikes come first: a thermometer.
    assert not np.any(np.diff(raster.spikes.reshape(10, 2, LEVELS).astype(int), axis=2) > 0)


def test_a_sample_is_the_same_each_time_and_without_repetition():
    counts = {"block3_0/a": np.arange(5000)[None] % (LEVELS + 1), "head_neuron": draw(1, 8)}
    [stage, head], [again, _] = rasters(counts, LEVELS, 50), rasters(counts, LEVELS, 50)
    np.testing.assert_array_equal(stage.spikes, again.spikes)
    assert stage.spikes.shape == (50, LEVELS) and stage.neurons == 5000
    assert stage.rate == 0.5  # Of all neurons, not of the sample.
    assert head.stage == "head" and head.neurons == 8
    every = {"block3_0/a": np.arange(100)[None]}
    [raster] = rasters(every, 100, 40)
    found = raster.spikes.sum(1)
    assert len(set(found)) == 40 and [*found] == sorted(found)


def test_spikes_are_those_of_the_spike_driven_form_in_its_order(monkeypatch):
    """Recorded where its slots are about to be multiplied with weights."""
    multiplied = []

    def recorded(self, slots, layer):
        multiplied.append(np.asarray(slots))
        return slots.astype(jnp.int32)

    monkeypatch.setattr(spike_driven.IntegerArithmetic, "product", recorded)
    counts = draw(2, 3, 5)  # (T, ...)
    total = spike_driven.SpikeArithmetic(LEVELS).product(jnp.asarray(counts), None)
    np.testing.assert_array_equal(total, counts)
    [slots] = multiplied
    slots = slots.reshape(LEVELS, 2, 15)  # Of one slot all time steps, then of the next.
    [raster] = rasters({"block3_0/neuron": counts}, LEVELS)
    for t in range(2):
        for d in range(LEVELS):
            np.testing.assert_array_equal(raster.spikes[:, t * LEVELS + d], slots[d, t])
