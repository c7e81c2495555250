"""Codes of spikes: one byte for a count and a gate."""

import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.neurons import fire, make_neuron
from qsdt_jax.core.spikes import codes_of, counts_of, gates_of


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_byte_holds_each_count_up_to_127_with_its_gate(dtype):
    counts, is_open = np.meshgrid(np.arange(128), [False, True])
    codes = codes_of(jnp.asarray(counts, dtype), jnp.asarray(is_open), 127)
    assert codes.dtype == jnp.int8
    assert np.array_equal(np.asarray(counts_of(codes, dtype), int), counts)
    assert np.array_equal(gates_of(codes, dtype), is_open)


def test_larger_counts_take_two_bytes():
    codes = codes_of(jnp.arange(1001.0), jnp.zeros(1001, bool), 1000)
    assert codes.dtype == jnp.int16
    assert np.array_equal(counts_of(codes, jnp.float32), np.arange(1001))


@pytest.mark.parametrize("timesteps", [1, 3])
def test_a_neuron_gives_counts_and_gates(timesteps):
    """The gate is open strictly between 0 and D; in time it is that of each step's own membrane."""
    neuron = make_neuron("i_lif", levels=2, timesteps=timesteps, decay=0.0)
    u = jnp.array([-1.0, 0.0, 0.1, 0.5, 1.9, 2.0, 3.0])
    spikes = fire(jnp.tile(u, (timesteps, 1)), neuron)
    assert spikes.codes is not None
    for counts, codes in zip(spikes.counts, spikes.codes, strict=True):
        assert counts.tolist() == [0, 0, 0, 1, 2, 2, 2]
        assert counts_of(codes, jnp.float32).tolist() == counts.tolist()
        assert gates_of(codes, jnp.int32).tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_with_a_surrogate_that_is_no_gate_all_are_open():
    spikes = fire(jnp.array([-1.0, 0.3, 9.0]), make_neuron(surrogate="arctan"))
    assert spikes.codes is not None and spikes.codes.tolist() == [0, 1, 4]
