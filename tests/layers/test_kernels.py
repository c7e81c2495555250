"""The GPU kernels equal NumPy, and their plain versions, where arithmetic is exact; on a CPU step by step."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qsdt_jax.core.exact import to_digits
from qsdt_jax.core.spikes import codes_of
from qsdt_jax.layers import lowering
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.lowering.attention import real_attention
from qsdt_jax.layers.lowering.kernels import available
from qsdt_jax.layers.lowering.kernels.attention import (
    MOST_TOKENS,
    attention,
    attention_gradients,
    can_use_attention,
)
from qsdt_jax.layers.lowering.kernels.digits import can_use_digits, digit_product
from qsdt_jax.layers.product import exact_convolution

INTERPRET = jax.default_backend() != "gpu"
# (N, L, heads, width): of sizes S and M, beyond the blocks of tokens and below their width, and one token.
SHAPES = [(2, 196, 2, 32), (1, 49, 3, 45), (1, 65, 2, 8), (1, 1, 1, 64)]


def draw(shape, levels, seed):
    """Counts and their codes, half of the gates closed."""
    n, tokens, heads, width = shape
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, levels + 1, (3, n, tokens, heads, width))
    codes = codes_of(jnp.asarray(counts), jnp.asarray(rng.random(counts.shape) < 0.5), levels)
    return counts, codes.reshape(3, n, tokens, heads * width)


def product(m, rows):
    return np.einsum("nhcd,nlhc->nlhd", m, rows)


@pytest.mark.parametrize("levels", [1, 4, 15])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_that_of_whole_numbers(shape, levels):
    (q, k, v), codes = draw(shape, levels, seed=levels)
    y = attention(*codes, shape[2], levels, interpret=INTERPRET)
    expected = product(np.einsum("nlhc,nlhd->nhcd", k, v), q)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, expected.reshape(y.shape))


def test_attention_of_the_largest_sums_it_takes():
    tokens, width, levels = 196, 32, 13
    assert can_use_attention((1, tokens, width), 1, levels)
    assert not can_use_attention((1, tokens, width), 1, levels + 1)
    codes = jnp.full((1, tokens, width), levels, jnp.int8)
    y = attention(codes, codes, codes, 1, levels, interpret=INTERPRET)
    np.testing.assert_array_equal(y, np.full(y.shape, tokens * width * levels**3))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_attention_round_two_operands_alone(shape):
    """With dy of whole numbers all sums are exact: what is rounded is k^T v, q^T dy and the results."""
    (q, k, v), codes = draw(shape, 4, seed=1)
    dy = np.random.default_rng(2).integers(-3, 4, q.shape)
    gradients = attention_gradients(
        *codes, jnp.asarray(dy.reshape(codes[0].shape), jnp.bfloat16), shape[2], interpret=INTERPRET
    )
    narrow = lambda x: x.astype(ml_dtypes.bfloat16)  # noqa: E731
    m = narrow(np.einsum("nlhc,nlhd->nhcd", k, v)).astype(float)
    dm = narrow(np.einsum("nlhc,nlhd->nhcd", q, dy)).astype(float)
    expected = product(m.swapaxes(2, 3), dy), product(dm.swapaxes(2, 3), v), product(dm, k)
    for gradient, x in zip(gradients, expected, strict=True):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_array_equal(gradient, narrow(x).reshape(gradient.shape))


def test_attention_of_plain_numbers_is_the_same():
    (q, k, v), codes = draw(SHAPES[0], 4, seed=3)
    rows = (jnp.asarray(x.reshape(codes[0].shape), jnp.float32) for x in (q, k, v))
    plain = real_attention(*rows, heads=2)
    np.testing.assert_array_equal(attention(*codes, 2, 4, interpret=INTERPRET), plain)


@pytest.mark.parametrize(
    ("pixels", "channels", "out", "digits"), [(49, 64, 32, 2), (70, 45, 70, 2), (3, 2048, 8, 3)]
)
def test_products_of_digits_equal_the_plain_ones_bit_for_bit(pixels, channels, out, digits):
    rng = np.random.default_rng(channels)
    # Images of different size, and a third of the values half a unit from two whole numbers of them.
    x = rng.normal(size=(3, pixels, 1, channels)).astype(np.float32) * np.array([1, 1e-3, 1e5]).reshape(
        3, 1, 1, 1
    )
    x = jnp.asarray(x, jnp.float32)
    cut = functools.partial(to_digits, axes=(1, 2, 3), terms=channels, largest=8)
    unit = cut(x).unit
    ties = (jnp.round(x / unit) + 0.5) * unit
    x = jnp.where(
        (rng.random(x.shape) < 1 / 3) & (jnp.abs(x) < jnp.max(jnp.abs(x), (1, 2, 3), keepdims=True) / 4),
        ties,
        x,
    )
    weights = rng.integers(-8, 8, (1, 1, channels, out))
    of_x = cut(x)
    assert len(of_x.digits) == digits and can_use_digits(x.dtype, channels, of_x.base)
    y = digit_product(
        x[:, :, 0],
        of_x.unit.reshape(3, 1),
        jnp.asarray(weights[0, 0], jnp.int8),
        digits,
        of_x.base,
        interpret=INTERPRET,
    )
    plain = exact_convolution(x, jnp.asarray(weights, jnp.float32), ConvGeometry(), 4, portable=True)
    np.testing.assert_array_equal(y, plain[:, :, 0])


def test_what_has_no_kernel():
    assert can_use_attention((1, MOST_TOKENS, 512), 8, 4)
    assert not can_use_attention((1, MOST_TOKENS + 1, 512), 8, 4)
    assert not can_use_attention((1, 196, 520), 8, 4)
    assert can_use_digits(jnp.float32, 16, 2.0**12)
    assert not can_use_digits(jnp.float32, 15, 2.0**12)
    assert not can_use_digits(jnp.float32, 16, 2.0**13)
    assert not can_use_digits(jnp.float64, 16, 2.0**12)


@pytest.fixture
def fresh():
    available.kernels_available.cache_clear()
    yield
    available.kernels_available.cache_clear()


class Gpu:
    platform = "gpu"

    def __init__(self, capability):
        self.compute_capability = capability


@pytest.mark.parametrize(
    ("capability", "there"), [("7.5", False), ("8.0", True), ("12.0", True), ("gfx942", True)]
)
def test_old_gpus_have_no_kernels(fresh, monkeypatch, capability, there):
    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu("9.0"), Gpu(capability)])
    assert available.kernels_available() is there
    assert can_use_attention((1, 196, 256), 8, 4) is there


def test_the_environment_can_leave_all_to_xla(fresh, monkeypatch):
    monkeypatch.setenv("QSDT_KERNELS", "0")
    assert not can_use_attention((1, 196, 256), 8, 4)
    assert not can_use_digits(jnp.float32, 16, 2.0**12)


def test_kernels_under_vmap_are_those_of_each():
    """Of images of their own, of common ones, of matrices of their own, and of one vmap in another."""
    q, k, v = draw((6, 9, 2, 16), 4, seed=5)[1].reshape(3, 3, 2, 9, 32)

    def gradients(q, v):
        return attention_gradients(q, k[0], v, v.astype(jnp.bfloat16), 2, interpret=INTERPRET)

    expected = jax.lax.map(lambda of: gradients(*of), (q, v))
    for found, each in zip(jax.vmap(gradients)(q, v), expected, strict=True):
        np.testing.assert_array_equal(found, each)

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 2, 9, 32)), jnp.float32)
    w = jnp.asarray(rng.integers(-8, 8, (2, 32, 16)), jnp.int8)
    unit = jnp.full((2, 1), 2.0**-20)
    product = lambda x, w: digit_product(x, unit, w, 2, 2.0**12, interpret=INTERPRET)  # noqa: E731
    found = jax.vmap(jax.vmap(product, (0, None)), (None, 0))(x, w)
    np.testing.assert_array_equal(found, jax.lax.map(lambda w: jax.lax.map(lambda x: product(x, w), x), w))


def lowered_for_cuda(function, *arguments) -> str:
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("spread", [jax.vmap, "shard_map"])
def test_layers_with_kernels_under_vmap_and_shard_map(spread):
    """On every platform: all ways of a product are traced, whichever is taken."""
    if spread == "shard_map":
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
        spec = jax.sharding.PartitionSpec("data")
        spread = functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec)
    codes = jax.ShapeDtypeStruct((2, 9, 32), jnp.int8)
    x = jax.ShapeDtypeStruct((2, 9, 32), jnp.float32)

    def attend(codes, x):
        codes, x = [codes.reshape(-1, 9, 32)] * 3, x.reshape(-1, 9, 32)
        y, vjp = jax.vjp(lambda *qkv: lowering.count_attention(*qkv, 2, 4, jnp.bfloat16, codes), x, x, x)
        return y, vjp(y)

    def convolve(x):
        return exact_convolution(x.reshape(-1, 3, 3, 32), jnp.ones((1, 1, 32, 16)), ConvGeometry(), 4)

    for function, arguments in ((attend, (codes, x)), (convolve, (x,))):
        kernels = lowered_for_cuda(function, *arguments).count("triton")
        assert kernels and lowered_for_cuda(spread(function), *arguments).count("triton") == kernels
        jax.eval_shape(spread(function), *arguments)


@pytest.mark.parametrize(("tokens", "kernels"), [(196, 2), (4200, 0)])
def test_attention_takes_the_kernels_that_suit_its_shape(tokens, kernels):
    codes = jax.ShapeDtypeStruct((2, tokens, 64), jnp.int8)
    real = jax.ShapeDtypeStruct(codes.shape, jnp.float32)

    def run(codes, x, dy):
        given = [codes] * 3
        y, vjp = jax.vjp(lambda *qkv: lowering.count_attention(*qkv, 2, 4, jnp.bfloat16, given), x, x, x)
        return y, vjp(dy)

    assert lowered_for_cuda(run, codes, real, real).count("triton") == kernels


@pytest.mark.parametrize(("kernel", "kernels"), [(1, 1), (3, 0)])
def test_exact_convolutions_take_the_kernel_for_single_pixels(kernel, kernels):
    x = jax.ShapeDtypeStruct((2, 14, 14, 64), jnp.float32)
    weights = jax.ShapeDtypeStruct((kernel, kernel, 64, 32), jnp.float32)
    run = lambda x, w: exact_convolution(x, w, ConvGeometry(stride=2), 4)  # noqa: E731
    assert lowered_for_cuda(run, x, weights).count("triton") == kernels
