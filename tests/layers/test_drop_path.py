"""Drop path: which branches fall away, by how much the others grow, and that nothing is lost in the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.transformer_block import DropPath, TransformerBlock
from qsdt_jax.models import Backbone

IMAGES = 4000


def dropped(rate: float, timesteps: int, x: jax.Array, seed: int = 0, train: bool = True) -> np.ndarray:
    rngs = {"drop_path": jax.random.key(seed)}
    return np.asarray(DropPath(rate, timesteps).apply({}, x, train=train, rngs=rngs))


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.8])
def test_kept_branches_make_up_for_the_dropped(rate, timesteps):
    """An image's branch is 0, or divided by 1 - rate, in all its time steps; the mean stays what it was."""
    x = np.random.default_rng(0).uniform(1, 2, (IMAGES * timesteps, 2, 1, 3)).astype(np.float32)
    y = dropped(rate, timesteps, jnp.asarray(x))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    ratio = (y / x).reshape(IMAGES, -1)
    kept = ratio[:, 0] > 0
    np.testing.assert_allclose(
        ratio, np.repeat(kept[:, None] / (1 - rate), ratio.shape[1], axis=1), rtol=1e-6
    )
    assert stats.binomtest(int(kept.sum()), IMAGES, 1 - rate).pvalue > 1e-3
    # The ratio's standard deviation is that of a coin over 1 - rate.
    error = np.sqrt(rate / (1 - rate) / IMAGES)
    assert abs(np.mean(ratio) - 1) < 4 * error < 0.15


def test_every_key_draws_anew():
    x = jnp.ones((64, 1, 1, 1))
    assert len({dropped(0.5, 1, x, seed).tobytes() for seed in range(8)}) == 8
    assert dropped(0.5, 1, x, 3).tobytes() == dropped(0.5, 1, x, 3).tobytes()


def test_narrow_types_stay_as_they_are():
    assert dropped(0.5, 1, jnp.ones((4, 1, 1, 1), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("rate", "train"), [(0.0, True), (0.5, False)])
def test_without_training_or_rate_nothing_is_drawn(rate, train):
    x = jnp.arange(6.0).reshape(6, 1, 1, 1)
    np.testing.assert_array_equal(DropPath(rate).apply({}, x, train=train), x)


def test_both_branches_of_a_block_are_drawn_apart():
    """Attention and MLP of one image fall away independently; what is left is the block without them."""
    rate = 0.5
    numerics = Numerics(neuron=make_neuron("ie_lif", levels=4, timesteps=1))
    block = TransformerBlock(numerics, num_heads=2, mlp_ratio=1, layer_scale_init=0.5, drop_path=rate)
    x = jax.random.normal(jax.random.key(1), (64, 2, 2, 4))
    rngs = {"params": jax.random.key(0), "drop_path": jax.random.key(2)}
    variables = block.init(rngs, x, train=True)
    y, updates = block.apply(
        variables,
        x,
        train=True,
        rngs={"drop_path": jax.random.key(3)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == "drop_path",
    )
    attention, mlp = updates["intermediates"]["drop_path"]["__call__"]
    np.testing.assert_allclose(y, x + attention + mlp, rtol=1e-6, atol=1e-6)
    fates = [np.any(np.asarray(branch) != 0, axis=(1, 2, 3)) for branch in (attention, mlp)]
    assert all(16 < kept.sum() < 48 for kept in fates)
    assert 16 < np.sum(fates[0] != fates[1]) < 48


def test_rate_rises_from_block_to_block():
    """Linearly, from 0 at the first to what is asked for at the last."""
    model = Backbone(channels=(8, 8, 16, 16), depth=5, num_heads=2, drop_path=0.4).bind({})
    rates = [block.drop_path for block in (*model.block3, *model.block4)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-12)
