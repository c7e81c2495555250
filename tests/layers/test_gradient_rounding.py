"""What bfloat16 costs a gradient, operands and results, in the GPU's way and measured against float64.

The roundings are those of the GPU's way run on a CPU, which is told to keep each of them
(`xla_allow_excess_precision`). Errors are relative, of the whole array (2-norm), in units of 2^-8, which is
the largest relative error of one rounding to bfloat16. An error is uniform between the neighbours, so its
2-norm is 1/sqrt(3) of the largest for a mantissa of 1 and half of that for one of 2: 0.42 for normal numbers.
Roundings are independent and add up by their squares, so n of them give an error of sqrt(n) * 0.42.

    dx     dz is rounded, and the result                                  n = 2
    dw     dz is rounded, x if it is real, and the result of all but 1x1  n = 1 to 3
    scale  a sum of integers * dw that can cancel: dy * z summed up; measured up to twice that of dw
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.exact import Whole
from qsdt_jax.core.spikes import codes_of
from qsdt_jax.layers.lowering import ConvGeometry, attention
from qsdt_jax.layers.product import scaled_convolution
from tests.deploy.nets import draw_images, draw_variables, short_net, tiny_net
from tests.platforms import lowered_for

UNIT = 2.0**-8
AS_WRITTEN = {"xla_allow_excess_precision": False}
PER_ROUNDING = 0.42

# (x, kernel, geometry, roundings of the results of y, and of dw).
PRODUCTS = {
    "1x1": ((8, 14, 14, 32), (1, 1, 32, 24), ConvGeometry(), 1, 0),
    "3x3": ((8, 14, 14, 16), (3, 3, 16, 24), ConvGeometry(1, 1), 1, 1),
    "3x3 stride 2": ((8, 14, 14, 16), (3, 3, 16, 24), ConvGeometry(2, 1), 1, 1),
    "depthwise 7x7": ((8, 14, 14, 24), (7, 7, 1, 24), ConvGeometry(1, 3, 24), 0, 1),
    "depthwise 3x3": ((8, 14, 14, 24), (3, 3, 1, 24), ConvGeometry(1, 0, 24), 0, 1),
    "stem": ((8, 28, 28, 3), (7, 7, 3, 16), ConvGeometry(2, 3), 1, 1),
}


def error(found, expected) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected) / UNIT)


def product_and_gradients(case, dtype, *, spikes: bool, platform: str):
    x_shape, kernel_shape, geometry, *_ = case
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, x_shape) if spikes else rng.standard_normal(x_shape)
    w, scale = rng.integers(-8, 8, kernel_shape), rng.uniform(0.05, 0.2, kernel_shape[-1])
    real = jnp.promote_types(dtype, jnp.float32)
    whole = Whole(left=4, right=8) if spikes else None
    codes = codes_of(jnp.float32(x), None, 4) if spikes else None

    def run(x, w, scale):
        product = lambda *a: scaled_convolution(*a, geometry, dtype, dtype, whole, dtype, codes)  # noqa: E731
        y, vjp = jax.vjp(product, x, w, scale)
        return y, *vjp(jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype))

    run = lowered_for(platform, run, AS_WRITTEN)
    return run(*(jnp.asarray(a, real) for a in (x, w, scale)))


@pytest.mark.parametrize("spikes", [True, False], ids=["spikes", "real"])
@pytest.mark.parametrize("case", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_each_rounding_of_a_product_is_accounted_for(case, spikes):
    with jax.enable_x64(True):
        exact = product_and_gradients(case, jnp.float64, spikes=spikes, platform="cpu")
    found = product_and_gradients(case, jnp.bfloat16, spikes=spikes, platform="cuda")
    y, dx, dw, scale = map(error, found, exact)
    *_, geometry, of_y, of_dw = case
    expected_y = 0 if spikes else PER_ROUNDING * np.sqrt(1 + of_y)
    dense_spikes = spikes and case[1][0] > 1 and geometry.groups == 1
    expected_dx = PER_ROUNDING * np.sqrt(2)
    expected_dw = PER_ROUNDING * np.sqrt((1 if spikes else 2) + of_dw)
    # At least most of it too: a rounding that does not happen is not what runs on a GPU.
    if dense_spikes:  # Their sums are rounded, of which many have no more than 8 bits.
        assert 0.05 < y < 1.1 * PER_ROUNDING
    else:
        assert 0.9 * expected_y <= y <= 1.1 * expected_y + 1e-4  # The scale of a spike product is float32.
    assert 0.9 * expected_dx <= dx <= 1.1 * expected_dx
    assert 0.8 * expected_dw <= dw <= 1.2 * expected_dw
    assert scale <= 2 * expected_dw


def net_gradients(dtype, real, platform: str):
    """All gradients of a small network that multiplies as the float twin does, so that nothing jumps."""
    model = tiny_net(dtype=dtype, param_dtype=real, neuron="relu", bits=32, attention="softmax")
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, real), draw_variables(model))
    images = jnp.asarray(draw_images(8, 32, 32, 3), real)
    target = jnp.asarray(np.random.default_rng(5).standard_normal((8, 10)), real)

    def loss(params):
        y, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.mean((y - target) ** 2)

    gradient = lowered_for(platform, jax.grad(loss), AS_WRITTEN)
    leaves = jax.tree.leaves(gradient(variables["params"]))
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


@pytest.mark.slow
def test_rounded_results_cost_a_network_little_beside_rounded_operands():
    """Every product rounds operands; only those of dense and depthwise kernels round the result too.

    Off by 0.51 and 0.52 of the gradient here: with 8 to 24 channels and 8 images many a ReLU turns.
    """
    with jax.enable_x64(True):
        exact = net_gradients(jnp.float64, jnp.float64, "cpu")
    operands = error(net_gradients(jnp.bfloat16, jnp.float32, "tpu"), exact)
    results = error(net_gradients(jnp.bfloat16, jnp.float32, "cuda"), exact)
    assert results < np.sqrt(2) * operands


@pytest.mark.slow
def test_a_membrane_that_is_no_number_is_seen_in_the_gradients(monkeypatch):
    """Its count is some int8 number on a GPU, so the logits need not show it. A CPU has no kernels."""
    monkeypatch.setattr(attention, "can_use_attention", lambda *_: False)
    model = short_net(dtype=jnp.bfloat16)
    variables, images = draw_variables(model), draw_images(2, 32, 32, 3)
    images[0, 3, 3, 0] = np.nan

    def loss(params):
        y, _ = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return jnp.sum(y)

    gradients = lowered_for("cuda", jax.grad(loss))(variables["params"])
    assert not np.isfinite(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradients)))
