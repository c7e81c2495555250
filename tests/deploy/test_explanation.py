"""Wrong networks, made by changing the trained one while it runs, and what is told of their numbers."""

import contextlib
import dataclasses
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
    Right,
    distance,
    explain_counts,
    explain_logits,
    first_that_differs,
)
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.mistakes import mistakes_in
from qsdt_jax.layers import batch_norm
from qsdt_jax.layers.attention import QSDSA
from qsdt_jax.layers.batch_norm import BatchNorm
from qsdt_jax.layers.quantized import QConv, QDense
from qsdt_jax.layers.spiking import SpikingNeuron
from tests.deploy.nets import draw_images, draw_variables, short_net

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
    with nn.intercept_methods(change):
        with jax.disable_jit():
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


def explained(right: Right, counts) -> tuple[str, object]:
    first = first_that_differs(right, shaped(right, counts))
    assert first is not None
    mistakes = mistakes_in(right.program, MODEL, VARIABLES)
    return first, explain_counts(right, first, shaped(right, counts)[first], mistakes)


def shaped(right: Right, counts):
    return {name: np.asarray(c).reshape(right.values[name].shape) for name, c in counts.items()}


@pytest.mark.parametrize("name", WRONG)
def test_the_mistake_that_gives_these_counts_is_named(right, name):
    _, counts = run(WRONG[name])
    first, found = explained(right, counts)
    print(first, found)
    assert (found.mistake, found.left) == (name, 0)
