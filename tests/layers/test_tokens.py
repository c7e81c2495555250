"""Attention over the valid tokens of images that share an array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.attention import softmax_attention, spike_attention
from qsdt_jax.layers.tokens import factors_of_counts, valid_tokens

SIZES = jnp.array([[32, 48], [17, 33], [16, 32], [1, 1], [0, 0]])
VALID = [6, 6, 2, 1, 1]


def spikes(seed: int, tokens: int) -> Spikes:
    counts = jax.random.randint(jax.random.key(seed), (5, tokens, 4), 0, 5).astype(jnp.float32)
    return Spikes(counts=counts, step=0.25, levels=4)


def test_a_token_is_valid_where_its_first_pixel_is():
    valid = valid_tokens(SIZES, 16, (2, 3))
    assert valid.shape == (5, 2, 3)
    np.testing.assert_array_equal(valid.sum((1, 2)), VALID)
    np.testing.assert_array_equal(valid[2], [[1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("reference", [0, 7])
def test_each_image_attends_as_if_it_were_alone(reference):
    """Bit for bit that of its own tokens and no others, at its own scale, compiled or not."""
    q, k, v = (spikes(i, 6) for i in range(3))
    valid = valid_tokens(SIZES, 16, (2, 3)).reshape(5, 6)
    for run in (jax.jit, lambda f: f):
        found = run(lambda *x: spike_attention(*x[:3], 2, 0.3, reference=reference, valid=x[3]))(
            q, k, v, valid
        )
        for image, count in enumerate(VALID):
            kept = np.flatnonzero(valid[image])
            own = [jax.tree.map(lambda x, i=image, n=kept: x[i : i + 1, n], x) for x in (q, k, v)]
            expected = spike_attention(*own, 2, 0.3, reference=reference)
            assert expected.shape == (1, count, 4)
            np.testing.assert_array_equal(found[image, kept], expected[0])


def test_the_factor_is_rounded_after_each_operation():
    q, k, v = (spikes(i, 6) for i in range(3))
    plain = spike_attention(q, k, v, 2, 1.0) * 64  # Whole numbers.
    factor = np.float32(0.3 / 64) * (np.float32(7) / np.float32(6))
    found = jax.jit(lambda *x: spike_attention(*x, 2, 0.3, reference=7))(q, k, v)
    np.testing.assert_array_equal(found, np.asarray(plain) * factor)
    table = factors_of_counts(0.3 / 64, 7, 6, jnp.float32)
    assert table.dtype == np.float32 and table[6] == factor and table[7 - 1] < table[1] == table[0]


def test_softmax_leaves_them_out_too():
    q, k, v = (jax.random.normal(jax.random.key(i), (5, 6, 4)) for i in range(3))
    valid = valid_tokens(SIZES, 16, (2, 3)).reshape(5, 6)
    found = softmax_attention(q, k, v, 2, valid)
    own = softmax_attention(q[2:3, :2], k[2:3, :2], v[2:3, :2], 2)
    np.testing.assert_allclose(found[2:3, :2], own, rtol=1e-6)
