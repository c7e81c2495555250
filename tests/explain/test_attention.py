"""Attention received, against maps that are formed."""

import jax.numpy as jnp
import numpy as np

from qsdt_jax.core.spikes import Spikes
from qsdt_jax.explain.attention import even_shares, received, received_in_blocks, received_in_dssa
from qsdt_jax.layers.attention import spike_attention

HEADS, LEVELS = 4, 4


def draw(*shape: int, levels: int = LEVELS) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels + 1, shape, dtype=np.int8)


def test_it_is_the_sum_of_q_k_transposed_over_heads_steps_and_queries():
    q, k = draw(2, 3, 6, 8)
    expected = np.zeros(6, np.int64)
    for t in range(3):
        for head in range(HEADS):
            channels = slice(2 * head, 2 * head + 2)
            attention = q[t, :, channels].astype(int) @ k[t, :, channels].astype(int).T  # (i, j)
            expected += attention.sum(0)
    np.testing.assert_array_equal(received(q, k), expected)
    on_grid = received(q.reshape(3, 2, 3, 8), k.reshape(3, 2, 3, 8))
    np.testing.assert_array_equal(on_grid, expected.reshape(2, 3))


def test_it_is_the_attention_of_the_layer():
    """With v = 1 at place j alone the layer gives its map's column j in each channel of a head."""
    q, k = (x[None] for x in draw(2, 6, 8))
    spikes = [Spikes(counts=jnp.asarray(x, jnp.float32), step=1.0, levels=LEVELS) for x in (q, k)]
    found = received(q, k)
    for j in range(6):
        v = np.zeros((1, 6, 8), np.float32)
        v[:, j] = 1
        y = spike_attention(*spikes, Spikes(counts=jnp.asarray(v), step=1.0, levels=LEVELS), HEADS, 1.0)
        assert np.asarray(y)[0, :, :: 8 // HEADS].sum() == found[j] > 0


def test_large_counts_do_not_overflow():
    q = np.full((1, 300, 2), 127, np.int8)
    np.testing.assert_array_equal(received(q, q), np.full(300, 300 * 2 * 127**2))


def test_an_even_share_is_one():
    np.testing.assert_array_equal(even_shares(np.full((2, 3), 7)), np.ones((2, 3)))
    np.testing.assert_array_equal(even_shares(np.array([[3, 1]])), [[1.5, 0.5]])
    np.testing.assert_array_equal(even_shares(np.zeros((2, 2), int)), np.zeros((2, 2)))


def test_each_block_has_its_own_on_the_grid_of_its_places():
    q, k, other = draw(3, 2, 6, 8)
    on_grid = np.zeros((2, 2, 3, 8), np.int8)
    counts = {
        "downsample3/neuron": on_grid,
        "block3_0/attn/neuron": on_grid,
        "block3_0/attn/q_neuron": q,
        "block3_0/attn/k_neuron": k,
        "block3_0/attn/v_neuron": other,
        "block3_0/attn/attn_neuron": on_grid,
        "block4_0/attn/q_neuron": other,
        "block4_0/attn/k_neuron": k,
        "block4_0/attn/attn_neuron": on_grid,
    }
    found = received_in_blocks(counts)
    assert [*found] == ["block3_0", "block4_0"]
    np.testing.assert_array_equal(found["block3_0"], received(q, k).reshape(2, 3))
    np.testing.assert_array_equal(found["block4_0"], received(other, k).reshape(2, 3))


def test_of_dssa_it_is_how_often_each_pooled_place_is_read():
    """Images of 5x7 places have 2x3 patches of 2x2; what is left over at the borders reads as well."""
    attention = draw(2, 3, 6, 35, levels=1)  # (T, heads, P, N)
    counts = {
        "stage1_dssa0/neuron": np.zeros((2, 9, 9, 6), np.int8),
        "stage2_dssa0/neuron": np.zeros((2, 5, 7, 6), np.int8),
        "stage2_dssa0/attn_neuron": attention,
        "stage2_dssa0/out_neuron": np.zeros((2, 5, 7, 6), np.int8),
    }
    [(block, found)] = received_in_dssa(counts, (4, 2, 1)).items()
    assert block == "stage2_dssa0" and found.shape == (2, 3)
    for p in range(6):
        assert found.reshape(-1)[p] == sum(
            int(attention[t, head, p, place]) for t in range(2) for head in range(3) for place in range(35)
        )
