"""AdamW, LAMB and the schedule against their formulas in NumPy, in float64, over several steps."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsdt_jax.assemble.build import build_optimizer
from qsdt_jax.errors import UserError
from qsdt_jax.train.optimizer import adamw, lamb, scale_by_rate_rules
from tests.configs.tiny import get_config

Tensors = dict[str, np.ndarray]
GOLDEN = Path(__file__).parents[1] / "golden"
GENERATOR = np.random.default_rng(0)
# One tensor of each number of axes; the last is large against its updates, "zeros" starts without a norm.
SHAPES = {
    "bias": (3,),
    "gain": (),
    "kernel": (2, 3),
    "filter": (2, 1, 2, 3),
    "large": (4, 2),
    "zeros": (2, 2),
}
SIZES = {"kernel": 0.1, "filter": 0.5, "large": 50.0, "zeros": 0.0}
PARAMS: Tensors = {
    name: SIZES.get(name, 1.0) * GENERATOR.standard_normal(shape) for name, shape in SHAPES.items()
}
# Of norms around 0.04, 4 and 13: the first is left as it is by a clip at 1, the others are clipped by factors
# of their own.
GRADS = [
    {name: size * GENERATOR.standard_normal(shape) for name, shape in SHAPES.items()}
    for size in (0.007, 0.7, 2.5)
]
RATES = (0.1, 0.02, 0.5)
B1, B2 = 0.9, 0.999


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def clipped(grads: Tensors, most: float) -> Tensors:
    """All by one factor, where the norm of all together exceeds `most`."""
    norm = math.sqrt(sum(float(np.sum(g**2)) for g in grads.values()))
    return {name: g * min(1.0, most / norm) if most else g for name, g in grads.items()}


def directions(most: float, eps: float) -> list[Tensors]:
    """Adam's m / (sqrt(v) + eps) of each step, both without their bias."""
    m = v = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    found = []
    for t, grads in enumerate((clipped(g, most) for g in GRADS), start=1):
        m = {name: B1 * m[name] + (1 - B1) * g for name, g in grads.items()}
        v = {name: B2 * v[name] + (1 - B2) * g**2 for name, g in grads.items()}
        found.append(
            {name: m[name] / (1 - B1**t) / (np.sqrt(v[name] / (1 - B2**t)) + eps) for name in SHAPES}
        )
    return found


def adamw_by_hand(weight_decay: float, clip_norm: float) -> list[Tensors]:
    w, found = PARAMS, []
    for rate, update in zip(RATES, directions(clip_norm, 1e-8), strict=True):
        decay = {name: weight_decay if np.ndim(w[name]) >= 2 else 0.0 for name in w}
        w = {name: w[name] - rate * (update[name] + decay[name] * w[name]) for name in w}
        found.append(w)
    return found


def lamb_by_hand(weight_decay: float, clip_norm: float) -> list[Tensors]:
    w, found = PARAMS, []
    for rate, update in zip(RATES, directions(clip_norm, 1e-6), strict=True):
        after = {}
        for name in w:
            step, ratio = update[name], 1.0
            if np.ndim(w[name]) >= 2 and weight_decay:
                step = step + weight_decay * w[name]
                norms = np.sqrt(np.sum(w[name] ** 2)), np.sqrt(np.sum(step**2))
                ratio = min(norms[0] / norms[1], 1.0) if min(norms) > 0 else 1.0
            after[name] = w[name] - rate * ratio * step
        w = after
        found.append(w)
    return found


def trained(optimizer: optax.GradientTransformation) -> list[Tensors]:
    """The parameters after each step."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    state, found = optimizer.init(params), []
    for grads in GRADS:
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, params)
        params = optax.apply_updates(params, updates)
        found.append(jax.tree.map(np.asarray, params))
    return found


def rates() -> optax.Schedule:
    return lambda step: jnp.asarray(RATES)[step]


BY_HAND: dict[str, tuple[Callable, Callable]] = {
    "adamw": (adamw, adamw_by_hand),
    "lamb": (lamb, lamb_by_hand),
}


@pytest.mark.parametrize("clip_norm", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("weight_decay", [0.05, 2.0, 0.0])
@pytest.mark.parametrize("name", BY_HAND)
def test_every_step_is_that_of_the_formula(name, weight_decay, clip_norm):
    optimizer, by_hand = BY_HAND[name]
    found = trained(optimizer(rates(), weight_decay=weight_decay, clip_norm=clip_norm))
    assert_equal(found, by_hand(weight_decay, clip_norm))


@pytest.mark.parametrize("name", BY_HAND)
def test_defaults(name):
    """The paper's decay and the published code's clipping."""
    optimizer, by_hand = BY_HAND[name]
    assert_equal(trained(optimizer(rates())), by_hand(0.05, 1.0))


@pytest.mark.parametrize("name", BY_HAND)
def test_a_configuration_means_the_same(name):
    config = get_config()
    config.optimizer.update(name=name, weight_decay=0.7, clip_norm=0.2)
    assert_equal(trained(build_optimizer(config, rates())), BY_HAND[name][1](0.7, 0.2))


def assert_equal(found: Sequence[Tensors], expected: Sequence[Tensors]) -> None:
    for step, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        for name, value in wanted.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-12, atol=1e-14, err_msg=f"{name}, {step}")


@pytest.mark.parametrize("by_hand", [adamw_by_hand, lamb_by_hand])
def test_the_case_can_tell(by_hand):
    """Decay and clipping move every tensor that they should, by much more than the tolerance."""
    plain, decayed, cut = (by_hand(*values)[-1] for values in ((0.0, 0.0), (0.05, 0.0), (0.0, 1.0)))
    for name, shape in SHAPES.items():
        change = np.max(np.abs(plain[name] - decayed[name]))
        assert (change > 1e-4) == (len(shape) >= 2) and np.max(np.abs(plain[name] - cut[name])) > 1e-4


def test_an_update_without_a_norm_is_none():
    """Of a tensor without gradient and decay the trust ratio is 0 / 0 or w / 0."""
    params = {"kernel": jnp.ones((2, 2))}
    optimizer = lamb(0.1, weight_decay=1e-300, clip_norm=0.0)
    updates, _ = optimizer.update({"kernel": jnp.zeros((2, 2))}, optimizer.init(params), params)
    assert np.all(np.isfinite(updates["kernel"])) and np.max(np.abs(updates["kernel"])) <= 0.1


def test_adamw_equals_torch():
    """Six steps of torch.optim.AdamW: a tensor that decays, one that does not, one at twice the rate.

    tests/golden/adamw.npz; there the rate halves at every step.
    """
    golden = np.load(GOLDEN / "adamw.npz")
    names = ("matrix", "vector", "scalar")
    params = {name: jnp.asarray(golden[f"start{i}"]) for i, name in enumerate(names)}

    def rate(step):
        return 1e-2 * 0.5 ** jnp.asarray(step, jnp.float64)

    for decay_vectors, kept in ((False, ("matrix", "vector")), (True, ("matrix", "scalar"))):
        optimizer = optax.chain(
            adamw(rate, weight_decay=0.05, clip_norm=0.0, decay_vectors=decay_vectors),
            scale_by_rate_rules((("sc.*", 2.0),)),
        )
        values, state = dict(params), optimizer.init(params)
        for step in range(6):
            grads = {name: jnp.asarray(golden[f"grad{step}_{i}"]) for i, name in enumerate(names)}
            updates, state = optimizer.update(grads, state, values)
            values = optax.apply_updates(values, updates)
            for i, name in enumerate(names):
                if name in kept:
                    wanted = golden[f"after{step}_{i}"]
                    np.testing.assert_allclose(values[name], wanted, rtol=1e-12, err_msg=f"{name}, {step}")


def test_a_rate_rule_that_fits_nothing():
    optimizer = scale_by_rate_rules((("bias", 1.0), ("seg_head/.*", 2.0)))
    with pytest.raises(UserError, match=r"'seg_head/\.\*' of a learning-rate rule matches no tensor"):
        optimizer.init({"head": {"bias": jnp.zeros(3)}, "bias": jnp.zeros(3)})


def test_the_first_rate_rule_that_matches_counts():
    optimizer = scale_by_rate_rules(((".*/kernel", 3.0), ("head/.*", 2.0)))
    tree = {"head": {"bias": jnp.ones(()), "kernel": jnp.ones(())}, "stem": {"bias": jnp.ones(())}}
    updates, _ = optimizer.update(tree, optimizer.init(tree))
    assert jax.tree.map(float, updates) == {"head": {"bias": 2, "kernel": 3}, "stem": {"bias": 1}}
