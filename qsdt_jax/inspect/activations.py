"""Bounds on the memory that activations take, without compiling anything."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.models.operations import LayerOperations
from qsdt_jax.tasks.task import Task, Variables


def kept_bytes(task: Task, variables: Variables, batch: Mapping[str, Any]) -> int:
    """Bytes that differentiation keeps from the forward for the backward pass, each value counted once."""

    def backward(variables, batch):
        def loss(params):
            return task.loss({**variables, "params": params}, batch, jax.random.key(0))

        return jax.vjp(loss, variables["params"], has_aux=True)[1]

    jaxpr = jax.make_jaxpr(backward)(variables, batch).jaxpr
    kept = {v for v in jaxpr.outvars if not isinstance(v, Literal)} - set(jaxpr.invars)
    # The compiler keeps casts of one value to one type once: q, k and v read the same spikes.
    casts = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "convert_element_type"]
    source = {eqn.outvars[0]: eqn.invars[0] for eqn in casts}
    once = {(source.get(v, v), v.aval.dtype): v.aval for v in kept}
    return sum(aval.size * aval.dtype.itemsize for aval in once.values())


def largest_activation(numerics: Numerics, layers: Sequence[LayerOperations], images: int) -> int:
    """Bytes that an inference on so many images takes at least: of its largest activation."""
    largest = max(math.prod(layer.output_shape) for layer in layers)
    real = jnp.dtype(numerics.real_dtype).itemsize
    if numerics.exact_evaluation and numerics.bits != FLOAT_BITS:
        # Real inputs are cut in two; behind the stem they are what the layer before has given.
        pairs = itertools.pairwise(layers)
        real_inputs = [math.prod(one.output_shape) for one, two in pairs if not two.spike_input]
        largest += 2 * max(real_inputs, default=0)
    return largest * real * numerics.timesteps * images
