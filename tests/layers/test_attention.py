"""Q-SDSA's product against plain NumPy, and its exactness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.attention import QSDSA, spike_attention
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.spiking import HeadRectify


def draw_counts(shape, seed, levels=4):
    return np.random.default_rng(seed).integers(0, levels + 1, shape)


def attend(q, k, v, num_heads, dtype=jnp.float32):
    """The attention of counts 0..4."""
    q, k, v = (Spikes(counts=jnp.asarray(counts, dtype), step=1 / 4, levels=4) for counts in (q, k, v))
    return spike_attention(q, k, v, num_heads, 0.25)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_product_is_exact(dtype):
    """Equal to integer arithmetic, for any token order, as many tokens as an image of 224 has."""
    q, k, v = (draw_counts((2, 196, 24), seed) for seed in range(3))
    heads = [x.reshape(2, 196, 8, 3).transpose(0, 2, 1, 3) for x in (q, k, v)]
    integers = heads[0] @ (heads[1].swapaxes(-1, -2) @ heads[2])
    expected = integers.transpose(0, 2, 1, 3).reshape(2, 196, 24) * np.float32(0.25 / 64)
    y = attend(q, k, v, 8, dtype)
    assert np.array_equal(np.asarray(y, np.float32), expected)
    order = np.random.default_rng(9).permutation(196)
    assert np.array_equal(y, attend(q, k[:, order], v[:, order], 8, dtype))


def test_attention_of_slots_alone_is_another_function():
    """Unrolling q, k, v into binary slots and keeping equal slots only loses the cross terms."""
    q, k, v = (draw_counts((1, 16, 8), seed) for seed in range(3))
    exact = attend(q, k, v, 2)
    naive = sum(attend(q > d, k > d, v > d, 2) for d in range(4))
    assert np.mean(np.asarray(naive)) < 0.5 * np.mean(np.asarray(exact))


def test_heads_must_divide_channels():
    layer = QSDSA(Numerics(), num_heads=5)
    with pytest.raises(ValueError, match="5 heads do not divide 16 channels"):
        layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)), train=False)


def test_norm_rectification_fills_the_levels_per_head():
    """Whatever mean and width a head's potential has, it comes out with mean 1/2 and std 1/4."""
    x = np.random.default_rng(0).standard_normal((4, 6, 6, 8))
    x[..., :4] = x[..., :4] * 5 - 3
    layer = HeadRectify(Numerics(), num_heads=2)
    variables = layer.init(jax.random.key(0), x, train=True)
    y, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    for head in (np.asarray(y)[..., :4], np.asarray(y)[..., 4:]):
        assert head.mean() == pytest.approx(0.5, abs=1e-5)
        assert head.std() == pytest.approx(0.25, abs=1e-4)
    assert jax.tree.map(np.shape, variables["params"]) == {"norm": {"bias": (2,), "scale": (2,)}}
