"""Batch norm against PyTorch's rule written out in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.spiking import HeadRectify


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


NUMERICS = {"dtype": jnp.float64, "param_dtype": jnp.float64}
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((6, 4, 5, 3)) * 2 + 1
GIVEN = Affine(X)  # Final values.
VARIABLES = {
    "params": {"scale": GENERATOR.uniform(0.5, 1.5, 3), "bias": GENERATOR.standard_normal(3)},
    "batch_stats": {"mean": GENERATOR.standard_normal(3), "var": GENERATOR.uniform(0.5, 1.5, 3)},
}


def reference(x, train=True):
    scale, bias = VARIABLES["params"]["scale"], VARIABLES["params"]["bias"]
    mean, var = VARIABLES["batch_stats"]["mean"], VARIABLES["batch_stats"]["var"]
    if train:
        batch_mean, batch_var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        n = x[..., 0].size
        moved = 0.9 * mean + 0.1 * batch_mean, 0.9 * var + 0.1 * batch_var * n / (n - 1)
        y = (x - batch_mean) / np.sqrt(batch_var + 1e-5) * scale + bias
    else:
        moved = mean, var
        y = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    border = bias - moved[0] * scale / np.sqrt(moved[1] + 1e-5)
    return y, moved, border


def applied(layer: BatchNorm, train: bool = True) -> tuple[Any, Any]:
    """The output for X, and the running statistics after it."""
    y, updates = layer.apply(VARIABLES, GIVEN, train=train, mutable=["batch_stats"])
    return y.real, updates["batch_stats"]


@pytest.mark.parametrize("train", [True, False])
def test_one_group(train):
    y, after = applied(BatchNorm(Numerics(**NUMERICS), border=1), train)
    expected, (mean, var), border = reference(X, train)
    assert y.shape == (6, 6, 7, 3)
    assert np.allclose(y[:, 1:-1, 1:-1], expected, atol=1e-12)
    assert np.allclose(y[:, 0], border, atol=1e-12) and np.allclose(y[:, :, -1], border, atol=1e-12)
    assert np.allclose(after["mean"], mean, atol=1e-12)
    assert np.allclose(after["var"], var, atol=1e-12)


@pytest.mark.parametrize("timesteps", [1, 2])
def test_groups_of_images_are_like_devices(timesteps):
    """Each group is normalised as if it were alone; the running statistics are the groups' mean."""
    numerics = Numerics(**NUMERICS, neuron=make_neuron(timesteps=timesteps), norm_group=3 // timesteps or 1)
    rows = (3 // timesteps or 1) * timesteps
    y, after = applied(BatchNorm(numerics, border=1))
    parts = [reference(X[i : i + rows]) for i in range(0, 6, rows)]
    assert np.allclose(y[:, 1:-1, 1:-1], np.concatenate([p[0] for p in parts]), atol=1e-12)
    for i, (_, _, border) in enumerate(parts):
        assert np.allclose(y[i * rows : (i + 1) * rows, -1], border, atol=1e-12)
    for name, index in (("mean", 0), ("var", 1)):
        expected = np.mean([p[1][index] for p in parts], axis=0)
        assert np.allclose(after[name], expected, atol=1e-12)


@pytest.mark.parametrize("norm_group", [0, 3])
def test_one_behind_another_is_computed_as_one(norm_group):
    """Outputs, running statistics of both and all gradients are those of the two, one after the other."""
    numerics = Numerics(**NUMERICS, norm_group=norm_group)
    inner, outer = BatchNorm(numerics), BatchNorm(numerics)
    second = jax.tree.map(lambda leaf: jnp.asarray(leaf[::-1] + 0.1), VARIABLES)
    weights = np.random.default_rng(1).standard_normal(X.shape)

    def run(params, x, apart):
        first, second_params = params
        y, of_inner = inner.apply({**VARIABLES, "params": first}, Affine(x), True, mutable=["batch_stats"])
        y = Affine(y.real) if apart else y  # Which does not tell where it comes from.
        assert (y.normalized is None) == apart
        z, of_outer = outer.apply({**second, "params": second_params}, y, True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(z.real) * weights), (z.real, of_inner, of_outer)

    params = VARIABLES["params"], second["params"]
    found, expected = (
        jax.value_and_grad(run, (0, 1), has_aux=True)(params, jnp.asarray(X), apart)
        for apart in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, expected)
    gradient_of_the_first_bias = found[1][0][0]["bias"]
    assert not np.any(gradient_of_the_first_bias)  # The second takes away what it adds.


@pytest.mark.parametrize("running_mean", [0.0, 1e6, np.nan])
@pytest.mark.parametrize("distance", [0, 3, 4000])
def test_normalisation_in_one_pass_depends_on_no_distance(distance, running_mean):
    """Of the mean from zero or from the running mean, in standard deviations; in float32."""
    x = np.float32(np.random.default_rng(2).standard_normal((64, 14, 14, 3)) + distance)
    layer = BatchNorm(Numerics())
    variables = layer.init(jax.random.key(0), Affine(jnp.asarray(x)), train=True)
    variables = {**variables, "batch_stats": {"mean": jnp.full(3, running_mean), "var": jnp.ones(3)}}
    y, _ = layer.apply(variables, Affine(jnp.asarray(x)), train=True, mutable=["batch_stats"])
    wide = np.float64(x)
    expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    unit = np.finfo(np.float32).eps
    np.testing.assert_allclose(y.real, expected, rtol=100 * unit, atol=(10 + distance) * unit)


def test_a_channel_without_variance_gives_its_bias():
    layer = BatchNorm(Numerics())
    x = jnp.full((4, 3, 3, 2), 73.1)
    variables = layer.init(jax.random.key(0), Affine(x), train=True)
    y, _ = layer.apply(variables, Affine(x), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.real, 0, atol=1e-9)


def test_border_has_no_gradient():
    layer = BatchNorm(Numerics(**NUMERICS), border=1)

    def border_sum(params):
        y = layer.apply({**VARIABLES, "params": params}, GIVEN, train=False)
        return jnp.sum(y.real[:, 0])

    gradient = jax.grad(border_sum)(VARIABLES["params"])
    assert not np.any(gradient["scale"]) and not np.any(gradient["bias"])


@pytest.mark.parametrize("shared", [1, 3])
def test_composed_with_the_product_before(shared):
    """A product that is not yet scaled, normalised as such: the same values, the same border."""
    z, scale = GENERATOR.standard_normal(X.shape), GENERATOR.uniform(0.5, 1.5, 3)
    variables = jax.tree.map(lambda v: v[: 3 // shared], VARIABLES)
    layer = BatchNorm(Numerics(**NUMERICS), shared=shared, border=2)
    product = Affine(values=jnp.asarray(z), scale=jnp.asarray(scale), shift=jnp.zeros(3))
    y = layer.apply(variables, product, train=False)
    assert y.scale is not None
    expected = layer.apply(variables, Affine(z * scale), train=False)
    assert expected.scale is None
    assert y.shape == expected.shape == (6, 8, 9, 3)
    assert np.allclose(y.real, expected.real, rtol=1e-12, atol=1e-12)


def test_initialisation_leaves_the_statistics_alone():
    variables = BatchNorm(Numerics(**NUMERICS)).init(jax.random.key(0), GIVEN, train=True)
    stats: Any = variables["batch_stats"]
    assert not np.any(stats["mean"])
    assert np.all(stats["var"] == 1)


def test_batch_that_does_not_divide_is_refused():
    layer = BatchNorm(Numerics(**NUMERICS, norm_group=4))
    with pytest.raises(ValueError, match="6 images does not divide into batch-norm groups of 4"):
        applied(layer)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layer", [BatchNorm(Numerics(**NUMERICS)), HeadRectify(Numerics(**NUMERICS), 3)])
def test_an_array_is_refused_with_what_it_takes(layer, train):
    with pytest.raises(TypeError, match=r"BatchNorm takes an Affine, got ArrayImpl; an array x is Affine"):
        layer.init(jax.random.key(0), jnp.asarray(X), train=train)


def test_frozen_statistics_stay_and_normalise_in_training_too():
    numerics, x = Numerics(freeze_statistics=True), jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) * 5
    variables = {
        "params": {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([0.5, -1.0])},
        "batch_stats": {"mean": jnp.array([1.0, -2.0]), "var": jnp.array([4.0, 0.25])},
    }

    def run(params, train):
        layer, both = BatchNorm(numerics, border=1), {**variables, "params": params}
        y, updates = layer.apply(both, Affine(x), train, mutable=["batch_stats"])
        return y.real, updates

    (y, updates), (expected, _) = (run(variables["params"], train) for train in (True, False))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(y[:, 1:-1, 1:-1, 1], (x[..., 1] + 2) / 0.50001 * 3 - 1, rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    grads = jax.grad(lambda params: jnp.sum(run(params, True)[0] ** 2))(variables["params"])
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(grads))
