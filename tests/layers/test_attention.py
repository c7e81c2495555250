"""Q-SDSA's product against plain NumPy, and its exactness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.exact import attention_sum, check_sums
from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.core.spikes import Spikes, codes_of
from qsdt_jax.layers import lowering
from qsdt_jax.layers.attention import QSDSA, spike_attention
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.quantized import QConv
from qsdt_jax.layers.spiking import HeadRectify
from tests.platforms import lowered_for


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
    x = Affine(x)
    layer = HeadRectify(Numerics(), num_heads=2)
    variables = layer.init(jax.random.key(0), x, train=True)
    y, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    for head in (np.asarray(y.real)[..., :4], np.asarray(y.real)[..., 4:]):
        assert head.mean() == pytest.approx(0.5, abs=1e-5)
        assert head.std() == pytest.approx(0.25, abs=1e-4)
    assert jax.tree.map(np.shape, variables["params"]) == {"norm": {"bias": (2,), "scale": (2,)}}


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("tokens", [4095, 4096, 4097, 6000])
def test_sums_are_exact_at_and_beyond_what_float32_holds(tokens, platform):
    """8 channels a head and D = 8: 4096 tokens reach 2^24. Above the sums are whole, and rounded once."""
    largest = np.full((1, tokens, 16), 8)
    drawn = [np.random.default_rng(seed).integers(7, 9, (1, tokens, 16)) for seed in range(3)]
    assert (attention_sum(tokens, 8, 8) > 2**24) == (tokens > 4096)
    for q, k, v in ([largest] * 3, drawn):
        heads = [x.reshape(tokens, 2, 8).swapaxes(0, 1) for x in (q, k, v)]
        whole = heads[0] @ (heads[1].swapaxes(-1, -2) @ heads[2])
        expected = whole.swapaxes(0, 1).reshape(1, tokens, 16).astype(np.float32)
        product = lowered_for(platform, lambda *counts: lowering.count_attention(*counts, 2, 8))
        y = product(jnp.float32(q), jnp.float32(k), jnp.float32(v))
        assert y.dtype == jnp.float32 and np.array_equal(y, expected)
    assert tokens < 6000 or (whole.max() > 2**24 and np.any(whole % 2))  # So rounding would be seen.


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_size_l_at_384_with_8_levels(platform):
    """576 tokens and 80 channels a head: float32 rounds on its way, and gives other numbers."""
    q, k, v = (np.random.default_rng(seed).integers(7, 9, (2, 576, 80)) for seed in range(3))
    expected = (q @ (k.swapaxes(-1, -2) @ v)).astype(np.float32)
    assert attention_sum(576, 80, 8) == 23_592_960 and expected.min() > 2**24
    counts = [jnp.float32(x) for x in (q, k, v)]
    y = lowered_for(platform, lambda *counts: lowering.count_attention(*counts, 1, 8))(*counts)
    assert np.array_equal(y, expected)
    assert np.mean(np.asarray(lowering.real_attention(*counts, 1)) != expected) > 0.1


@pytest.mark.parametrize("levels", [4, 16, 127, 256])
def test_pieces_on_a_gpu_are_those_of_the_number(levels):
    """k^T v in 1, 2 or 3 pieces of 9 bits, with the largest counts and with drawn ones."""
    tokens = min(200, 2**24 // levels**2)
    drawn = [np.random.default_rng(seed).integers(0, levels + 1, (2, tokens, 6)) for seed in range(3)]
    for q, k, v in ([np.full((2, tokens, 6), levels)] * 3, drawn):
        expected = q @ (k.swapaxes(-1, -2) @ v)
        product = lowered_for("cuda", lambda *counts: lowering.integer_attention(*counts, 1, levels))
        y = product(*(jnp.float32(x) for x in (q, k, v)))
        fits = expected < 2**31
        assert y.dtype == jnp.int32 and np.array_equal(np.asarray(y)[fits], expected[fits])


def test_gradients_are_the_same_on_both_sides_of_the_bound():
    """Those of the float product, whatever the sums go through."""
    q, k, v = (jnp.float32(draw_counts((1, 20, 8), seed)) for seed in range(3))

    def gradients(product):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(0.01 * product(*a))), (0, 1, 2))(q, k, v)

    naive = gradients(lambda *a: lowering.real_attention(*a, 2))
    assert attention_sum(20, 4, 64) > 2**24
    for levels in (4, 64, 2000):
        ours = gradients(lambda *a, levels=levels: lowering.count_attention(*a, 2, levels))
        for mine, theirs in zip(ours, naive, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("codes", [False, True])
def test_gradients_in_bfloat16_round_each_operand_once(codes):
    """Of dy, of k^T v or its gradient, and of the result; each is off by 0.42 units of 2^-8 (2-norm)."""
    counts = [draw_counts((4, 50, 32), seed) for seed in range(3)]
    weights = np.random.default_rng(3).standard_normal((4, 50, 32))
    given = tuple(codes_of(jnp.float32(x), jnp.asarray(x > 1), 4) for x in counts) if codes else None

    def gradients(gradient_dtype, given=None):
        def loss(q, k, v):
            y = lowering.count_attention(q, k, v, 4, 4, gradient_dtype, given)
            return jnp.sum(y * weights)

        gradient = jax.jit(jax.grad(loss, (0, 1, 2)), compiler_options={"xla_allow_excess_precision": False})
        return gradient(*(jnp.float32(x) for x in counts))

    for found, exact in zip(gradients(jnp.bfloat16, given), gradients(jnp.float32), strict=True):
        assert found.dtype == jnp.float32
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact) * 2**8
        assert 0.42 * np.sqrt(2) < error < 1.1 * 0.42 * np.sqrt(3)


@pytest.mark.parametrize(("levels", "dtype"), [(4, jnp.float32), (200, jnp.bfloat16)])
def test_codes_change_no_gradient(levels, dtype):
    """Neither in float32 nor of counts that take two bytes."""
    q, k, v = (np.random.default_rng(seed).integers(0, levels + 1, (1, 20, 8)) for seed in range(3))
    codes = [codes_of(jnp.float32(x), jnp.asarray(x % 2 == 0), levels) for x in (q, k, v)]

    def gradients(codes):
        product = lambda *a: lowering.count_attention(*a, 2, levels, dtype, codes)  # noqa: E731
        return jax.grad(lambda *a: jnp.sum(jnp.sin(product(*a))), (0, 1, 2))(*map(jnp.float32, (q, k, v)))

    for found, expected in zip(gradients(codes), gradients(None), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_nothing_holds_is_refused_where_it_has_to_be_exact():
    check_sums("a layer", 2**31 - 1)
    with pytest.raises(ValueError, match="sums in a layer can reach 2147483648, but int32 holds"):
        check_sums("a layer", 2**31)
    x = jax.ShapeDtypeStruct((1, 4, 4, 16), jnp.float32)
    assert attention_sum(16, 2, 406) < 2**31 <= attention_sum(16, 2, 407)

    def run(levels: int, train: bool = False, **fields):
        layer = QSDSA(Numerics(neuron=make_neuron(levels=levels), **fields), num_heads=8)
        jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=train), x)

    run(406)
    run(407, exact_evaluation=False)
    with pytest.raises(
        ValueError, match=r"sums in attention can reach 2157412576, .* exact_evaluation=False"
    ):
        run(407, train=True)  # Before the first evaluation.


def test_products_that_nothing_holds_are_refused_too():
    """4096 terms of 8-bit weights: D = 4096 would reach 2^31."""
    counts = jax.ShapeDtypeStruct((1, 1, 1, 4096), jnp.float32)

    def run(levels: int, train: bool = False, **fields):
        layer = QConv(4, Numerics(neuron=make_neuron(levels=levels), bits=8, **fields))
        spikes = Spikes(counts=counts, step=1.0, levels=levels)
        jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=train), spikes)

    run(4095)
    run(4096, exact_evaluation=False)
    with pytest.raises(ValueError, match=r"sums in a layer of .* can reach 2147483648"):
        run(4096, train=True)
