"""Few arrays hold what the tensors of a tree hold, and a step on them is that on the tensors."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.imagenet_s import get_config
from qsdt_jax.assemble.build import build_optimizer
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.classes import numbers
from qsdt_jax.inspect.gpu_compiler import compiler_is_installed, devices_of
from qsdt_jax.inspect.hlo import read_program
from qsdt_jax.inspect.kernels import kernels_of
from qsdt_jax.inspect.lowered import lowered_train_step
from qsdt_jax.inspect.targets import H100
from qsdt_jax.tasks.task import variable_shapes
from qsdt_jax.train.flat import (
    ROW,
    axes,
    flatten,
    flatten_parts,
    norms,
    paths,
    per_tensor,
    scaled,
    unflatten,
)
from qsdt_jax.train.optimizer import adamw, chained, decay_mask, lamb, scale_by_rate_rules
from qsdt_jax.train.parallel import Parallel
from qsdt_jax.train.state import create_state
from qsdt_jax.train.step import train_step

# Of each number of axes; no element, one, and about as many as a row has.
SHAPES = {
    "a": {"scalar": (), "none": (0,), "bias": (3,), "long": (ROW + 1,)},
    "b": {"no_rows": (0, 4), "small": (2, 3), "row": (2, ROW // 2), "more": (3, 1, 1, ROW // 2)},
}
GENERATOR = np.random.default_rng(0)


def draw(size: float = 1.0, dtype: Any = np.float64) -> Any:
    return jax.tree.map(
        lambda shape: jnp.asarray(size * GENERATOR.standard_normal(shape), dtype),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def assert_same(found: Any, expected: Any, rtol: float = 0.0) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


def test_there_and_back():
    """Tensors of two types, in several trees at once; there they are few."""
    tree = {"x": draw(), "y": draw(dtype=np.float32)}
    assert sorted((x.dtype.name, x.shape[1]) for x in jax.tree.leaves(flatten(tree))) == [
        ("float32", 8),
        ("float32", ROW),
        ("float64", 8),
        ("float64", ROW),
    ]
    state = [jnp.ones(()), (flatten(tree), {"z": flatten(draw())}), flatten(tree["x"]), flatten({})]
    assert_same(unflatten(state)[1][0], tree)
    assert_same(unflatten(state)[2], tree["x"])
    assert unflatten(state)[3] == {} and unflatten(state)[0] is state[0]


def test_what_belongs_to_a_tensor():
    """Norms, factors and names are those of the tree, and padding stays zero."""
    tree = draw()
    flat = flatten(tree)
    assert paths(flat) == paths(tree) == [f"{a}/{b}" for a in SHAPES for b in sorted(SHAPES[a])]
    factors = list(range(2, 10))
    expected = jax.tree.unflatten(
        jax.tree.structure(tree),
        [f * np.asarray(x) for f, x in zip(factors, jax.tree.leaves(tree), strict=True)],
    )
    for form in (tree, flat):
        assert_same(unflatten(scaled(form, per_tensor(form, factors))), expected)
    multiplied = scaled(flat, per_tensor(flat, factors))
    for array, like in zip(multiplied.arrays, flatten(expected).arrays, strict=True):
        np.testing.assert_array_equal(array, like)

    found = norms(flat)
    by_hand = [np.sqrt(np.sum(np.square(x))) for x in jax.tree.leaves(tree)]
    for group, array in zip(flat.layout.groups, found.arrays, strict=True):
        np.testing.assert_allclose(array, [by_hand[place] for place in group.places], rtol=1e-14)
    np.testing.assert_allclose(jax.tree.leaves(norms(tree)), by_hand, rtol=1e-14)


def test_a_group_decays_or_does_not():
    """Whether a tensor decays follows from its axes: no group has tensors of both kinds."""
    tree = draw()
    flat = flatten(tree)
    decays = jax.tree.leaves(decay_mask(tree))
    for group, decay in zip(flat.layout.groups, decay_mask(flat).arrays, strict=True):
        assert {decays[place] for place in group.places} == {decay}
    assert jax.tree.leaves(axes(tree)) == [len(x.shape) for x in jax.tree.leaves(tree)]


def test_parts_of_a_state():
    """The moments become arrays, the counters stay, and back it is what a checkpoint holds."""
    params = draw()
    state = lamb(optax.constant_schedule(0.1)).init(params)
    flat: Any = flatten_parts(state, like=params)
    assert len(jax.tree.leaves(flat)) == 2 + 2 * 2
    assert flat[1].count is state[1].count
    assert_same(unflatten(flat), state)


class Linear:
    """Loss sum(p (a x + b x^2)) of parameters p, with x and x^2 meant over the rows."""

    def __init__(self):
        self.a, self.b = draw(), draw()

    def loss(self, variables, batch, key, step):
        del key, step
        x = batch["x"]
        terms = jax.tree.map(
            lambda p, a, b: jnp.sum(p * (a * jnp.mean(x) + b * jnp.mean(x**2))),
            variables["params"],
            self.a,
            self.b,
        )
        statistics = jax.tree.map(lambda s: 0.5 * s + jnp.mean(x), variables["batch_stats"])
        return sum(jax.tree.leaves(terms)), (statistics, {})


# Rows of five steps. Some gradients are larger than what is clipped, some are smaller.
BATCHES = [size * np.array([1.0, -0.4, 0.3, 0.7]) for size in (1e-4, 1.0, -0.5, 1e-3, 2.0)]
RULES = (("b/.*", 3.0), (".*/bias", 0.25), ("a/scalar", 0.0))
OPTIMIZERS = {
    "lamb, rules": chained(lamb(0.1), scale_by_rate_rules(RULES)),
    "lamb without decay": lamb(0.1, weight_decay=0.0, clip_norm=0.0),
    "adamw": adamw(optax.linear_schedule(0.1, 0.01, 5)),
    "adamw of all, rules": chained(
        adamw(0.1, weight_decay=0.7, decay_vectors=True), scale_by_rate_rules(RULES)
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_tensors(name):
    """State, moving average and norm of the gradient after each of five steps, in two micro-batches."""
    optimizer, task = OPTIMIZERS[name], Linear()
    statistics = {"mean": jnp.ones(3)}
    initial = create_state({"params": draw(), "batch_stats": statistics}, optimizer, ema=True)
    update = jax.jit(
        functools.partial(train_step, task=task, optimizer=optimizer, accumulate=2, ema_decay=0.9),
        static_argnames="flat",
    )
    flat = tensors = initial
    for x in BATCHES:
        tensors, expected = update(tensors, {"x": jnp.asarray(x)})
        flat, metrics = update(flat, {"x": jnp.asarray(x)}, flat=True)
        assert_same(flat, tensors, rtol=1e-12)
        assert_same(metrics, expected, rtol=1e-12)
    before, after = initial.variables, flat.variables
    for path, old, new in zip(paths(before), jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        stays = new.size == 0 or (path == "params/a/scalar" and "rules" in name)
        assert np.array_equal(old, new) == stays, path


@pytest.mark.parametrize("optimizer", [optax.lamb(0.1), optax.adafactor(0.1)], ids=["lamb", "adafactor"])
def test_an_optimiser_of_others_gets_tensors(optimizer):
    """Its norms are those of tensors, and it may look at their shapes."""
    initial = create_state({"params": draw(), "batch_stats": {"mean": jnp.ones(3)}}, optimizer, ema=False)
    step = functools.partial(train_step, initial, {"x": jnp.ones(4)}, task=Linear(), optimizer=optimizer)
    assert_same(step(flat=True)[0], step(flat=False)[0], rtol=0)


# For a GPU


class Given:
    """The gradients are the batch, and nothing else is computed."""

    def loss(self, variables, batch, key, step):
        del key, step

        @jax.custom_vjp
        def nothing(params):
            del params
            return jnp.zeros(())

        def backward(params, cotangent):
            del cotangent
            return (
                jax.tree.unflatten(jax.tree.structure(params), [batch[name][0] for name in paths(params)]),
            )

        nothing.defvjp(lambda params: (nothing(params), params), backward)
        return nothing(variables["params"]), ({}, {})


@pytest.mark.slow
@pytest.mark.skipif(
    not compiler_is_installed(),
    reason="XLA's compiler for GPUs is not installed: pip install '.[gpu-compile]'",
)
def test_kernels_of_an_optimiser():
    """LAMB, the norm of the gradient and the moving average on the 580 parameters of size S."""
    jax.config.update("jax_disable_most_optimizations", False)
    with jax.enable_x64(False):
        config = get_config("published")
        params = variable_shapes(build_task(config, numbers(1000)))["params"]
        optimizer = build_optimizer(config, optax.constant_schedule(1e-3))
        create = functools.partial(create_state, optimizer=optimizer, ema=True)
        state = jax.eval_shape(create, {"params": params, "batch_stats": {}})
        leaves = jax.tree.leaves(params)
        batch = {
            name: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype)
            for name, leaf in zip(paths(params), leaves, strict=True)
        }
        step = functools.partial(train_step, task=Given(), optimizer=optimizer, ema_decay=config.ema_decay)
        parallel = Parallel(devices=devices_of(H100, 1))
        compiled = lowered_train_step(step, state, batch, parallel).compile()
    kernels = kernels_of(read_program(compiled.as_text() or ""))
    assert len(leaves) == 580 and sum(kernel.times for kernel in kernels) < 100
