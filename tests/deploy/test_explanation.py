"""Wrong networks, made by changing the trained one while it runs, and what is told of their numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from qsdt_jax.core.affine import Affine, real
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.deploy.agreement import training_form
from qsdt_jax.deploy.explanation import (
    NOTHING,
    ROUNDING,
    Explanation,
    Right,
    attempts,
    distance,
    explain_counts,
    explain_logits,
)
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.mistakes import mistakes_in, with_epsilon
from qsdt_jax.deploy.program import Fire
from qsdt_jax.layers import batch_norm
from qsdt_jax.layers.attention import QSDSA
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.quantized import QConv, QDense
from qsdt_jax.layers.spiking import SpikingNeuron
from tests.deploy.nets import draw_images, draw_variables, short_net

slow = pytest.mark.slow
D = 4
MODEL = short_net(levels=D)
VARIABLES = draw_variables(MODEL)
IMAGES = draw_images(2, 32, 32, 3)


@pytest.fixture(scope="module")
def right() -> Right:
    return Right.of(fold(MODEL, VARIABLES), IMAGES)


# Wrong networks


def bias_in_every_slot(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if isinstance(context.module, QConv | QDense) and isinstance(args[0], Spikes):
        bias = context.module.get_variable("params", "bias")
        return y if bias is None else y + (D - 1) * bias
    return y


def slots_alone(call, args, kwargs, context):
    if not isinstance(context.module, QSDSA) or context.method_name != "product":
        return call(*args, **kwargs)
    q, k, v, _ = args
    total = 0
    for d in range(D):
        slots = [np.float32(1) * (x.counts > d) for x in (q, k, v)]
        split = [x.reshape(*x.shape[:2], context.module.num_heads, -1) for x in slots]
        products = jnp.einsum("nlhc,nlhd->nhcd", *split[1:])
        total += jnp.einsum("nlhc,nhcd->nlhd", split[0], products).reshape(q.counts.shape)
    return total * (context.module.scale * q.step * k.step * v.step)


def unchanged(call, args, kwargs, context):
    return call(*args, **kwargs)


def neuron(counted: Callable):
    def fired(call, args, kwargs, context):
        module = context.module
        if not isinstance(module, SpikingNeuron):
            return call(*args, **kwargs)
        return Spikes(counts=counted(D * real(args[0])), step=module.gain / D, levels=D)

    return fired


def border_of_zeros(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if isinstance(context.module, BatchNorm) and context.module.border:
        return Affine(jnp.pad(y.real[:, 1:-1, 1:-1], ((0, 0), (1, 1), (1, 1), (0, 0))))
    return y


def run(change) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    with nn.intercept_methods(change), jax.disable_jit():
        outputs, counts = jax.device_get(training_form(MODEL, VARIABLES)(IMAGES))
    return outputs["logits"], counts


WRONG = {
    "the bias of a layer is counted in each slot": bias_in_every_slot,
    "attention is run slot by slot": slots_alone,
    "counts are clamped at 1": neuron(lambda v: jnp.floor(jnp.clip(v, 0, 1) + 0.5)),
    "counts are not clamped from above": neuron(lambda v: jnp.floor(jnp.maximum(v, 0) + 0.5)),
    "counts are rounded down": neuron(lambda v: jnp.floor(jnp.clip(v, 0, D))),
    "batch norm is folded in another way: the border of a RepConv is zero": border_of_zeros,
}


def explained(right: Right, counts) -> tuple[str, Explanation]:
    own = right.found[1]
    first = next(name for name in own if np.any(shaped(right, counts)[name] != own[name]))
    mistakes = mistakes_in(right.program, MODEL, VARIABLES)
    return first, explain_counts(right, first, shaped(right, counts)[first], mistakes)


def shaped(right: Right, counts):
    return {name: np.asarray(c).reshape(right.values[name].shape) for name, c in counts.items()}


@slow
@pytest.mark.parametrize("name", WRONG)
def test_the_mistake_that_gives_these_counts_is_named(right, name):
    _, counts = run(WRONG[name])
    _, found = explained(right, counts)
    assert (found.mistake, found.left) == (name, 0)


@slow
def test_another_epsilon_is_named(right, monkeypatch):
    monkeypatch.setattr(batch_norm, "EPSILON", 1e-3)
    _, counts = run(unchanged)
    monkeypatch.undo()
    _, found = explained(right, counts)
    assert found.mistake == "batch norm is folded in another way: its epsilon is 0.001"


def test_variables_that_stand_for_another_epsilon():
    norm = {"var": np.array([1e-4, 2.0], np.float32), "mean": np.zeros(2, np.float32)}
    for epsilon in (0.0, 1e-3):
        changed = with_epsilon({"params": {}, "batch_stats": {"bn": norm}}, epsilon)
        found = changed["batch_stats"]["bn"]["var"] + batch_norm.EPSILON
        np.testing.assert_allclose(found, norm["var"] + epsilon, rtol=1e-5)


@slow
def test_bias_and_batch_norm_in_every_slot(right):
    """By NumPy: the sum over the slots of all that a layer gives."""
    first = right.found[1]["downsample2/neuron"]
    layer = next(layer for layer in right.program.layers if layer.name == "downsample1_2/conv")
    current = np.asarray(right.values["downsample1_2/conv"]) + (D - 1) * np.asarray(layer.shift)
    counts = np.floor(np.clip(D * current, 0, D) + 0.5).astype(np.int8)
    assert np.any(counts != first)
    mistakes = mistakes_in(right.program, MODEL, VARIABLES)
    found = explain_counts(right, "downsample2/neuron", counts, mistakes)
    assert (found.mistake, found.left) == ("bias and batch norm are counted in each slot", 0)


@slow
def test_other_fields_are_named(right):
    """Here by the training form, there by another fold."""
    other = MODEL.clone(backbone=MODEL.backbone.clone(num_heads=2))
    logits = np.asarray(jax.jit(other.apply)(VARIABLES, IMAGES))
    mistakes = [m for m in mistakes_in(right.program, MODEL, VARIABLES) if "num_heads" in m.name]
    found = explain_logits(right.found, logits, attempts(right, mistakes))
    assert found.mistake == "it is run with num_heads=2" and found.first == "block3_0/attn/attn_neuron"


@slow
def test_counts_beside_a_threshold_are_roundings(right):
    def places(step: Fire) -> np.ndarray:
        """Where a potential lies beside a threshold, and another count would be one of 0..D."""
        own, current = right.found[1][step.name], np.asarray(right.values[step.input], np.float64)
        beside = np.abs(D * current + 0.5 - np.round(D * current + 0.5)) < 8e-4
        return beside & (own > 0) & (own < D)

    fires = [step for step in right.program.steps if isinstance(step, Fire)]
    name, inside = max(((s.name, places(s)) for s in fires), key=lambda found: found[1].sum())
    own, beside = right.found[1][name], inside
    assert inside.any()
    mistakes = list(mistakes_in(right.program, MODEL, VARIABLES))
    assert explain_counts(right, name, own + inside, mistakes) == ROUNDING
    assert explain_counts(right, name, own + 2 * inside, mistakes) == NOTHING
    far = np.argmax(~beside & (own < D) & (own > 0))  # The first place that is inside and not beside.
    other = own.copy()
    other.flat[far] += 1
    assert explain_counts(right, name, other, mistakes) == NOTHING


@slow
def test_a_mistake_behind_the_last_neuron(right):
    """All counts agree, and the bias of the head is there D times."""
    logits, counts = right.found
    bias = np.asarray(VARIABLES["params"]["head"]["bias"])
    mistakes = mistakes_in(right.program, MODEL, VARIABLES)
    tried = attempts(right, mistakes, only_output=True)
    found = explain_logits((logits, counts), logits + (D - 1) * bias, tried)
    assert found.mistake == "the bias of a layer is counted in each slot"
    assert (found.left, found.first) == (0, "the layer of the logits")


@slow
def test_all_before_a_neuron_is_computed_again_where_no_counts_are_known(right):
    _, counts = run(slots_alone)
    last, mistakes = shaped(right, counts)["head_neuron"], list(mistakes_in(right.program, MODEL, VARIABLES))
    assert np.any(last != right.found[1]["head_neuron"])
    found = explain_counts(right, "head_neuron", last, mistakes, known=())
    assert (found.mistake, found.left) == ("attention is run slot by slot", 0)
    assert (
        explain_counts(right, "head_neuron", last, mistakes) == NOTHING
    )  # All before it is taken for right.


@slow
def test_numbers_of_no_known_mistake(right):
    counts = {name: np.asarray(c) for name, c in right.found[1].items()}
    name = "block3_0/attn/attn_neuron"
    counts[name] = np.random.default_rng(0).integers(0, D + 1, counts[name].shape)
    assert explained(right, counts) == (name, NOTHING)


def test_distance_is_by_the_spread_over_classes():
    own = np.array([[1.0, 3.0], [11.0, 13.0]])
    assert distance(own, own) == 0 and distance(own, own + 1) == 1
