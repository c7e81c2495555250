"""Mistakes that are made when a network is run with binary spikes, each a small change of its program.

A network that is trained with counts 0..D and run with binary spikes is the same network only if each sum
over the D slots is taken where it belongs, see `deploy.spike_driven`, and if neuron and batch norm are those
of training. Each mistake here keeps the names of all steps, so that a layer can be computed in the right and
in the wrong way from the same inputs (`deploy.explanation`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import Arithmetic
from qsdt_jax.deploy.merge import FloatArithmetic
from qsdt_jax.deploy.program import Linear, Program
from qsdt_jax.deploy.spike_driven import SpikeArithmetic, unroll
from qsdt_jax.deploy.validity import LARGEST_COUNT
from qsdt_jax.layers.batch_norm import EPSILON
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.models import Backbone, Classifier, Segmenter, SpikingResformer

Folded = TypeVar("Folded", Program, FoldedDetector)
Variables = Mapping[str, Any]
EPSILONS = (1e-3, 0.0)  # Of other libraries, and of a formula without it.
# What others are trained with.
LEVELS, BITS, HEADS = (1, 2, 4, 8), (2, 3, 4, 8), (1, 2, 4, 8, 12, 16)
TIMESTEPS, SCALES, NOMINAL = (1, 2, 4), (0.125, 0.25), (0, 32, 64, 224)


class SlotsAlone(SpikeArithmetic):
    """Attention run slot by slot, as a layer is: the terms of unequal slots are lost."""

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
        slots = zip(*(unroll(x, self.levels) for x in (q, k, v)), strict=True)
        multiply = IntegerArithmetic().attention
        first, *others = (multiply(q_slot, k_slot, v_slot, heads) for q_slot, k_slot, v_slot in slots)
        return sum(others, first)


def bias_in_every_slot(folded: Folded) -> Folded:
    """The network whose layers add their bias in each of the D slots, so D times, and not once.

    The bias is all that a layer adds, what was folded of a batch norm included. Layers that take real values
    run once and stay.
    """
    if isinstance(folded, FoldedDetector):
        return folded.replace(**{name: bias_in_every_slot(part) for name, part in folded.parts.items()})
    levels = folded.neuron.levels
    return _linears(folded, lambda x: x.replace(shift=x.shift * levels) if x.spikes else x)


def scale_in_weights(program: Program) -> Program:
    """The scale of each layer of spikes in its weights, which are float then: other roundings, no more."""

    def changed(layer: Linear) -> Linear:
        if not layer.spikes:
            return layer
        weights = np.asarray(layer.weights, np.float32) * np.asarray(layer.scale)
        return layer.replace(weights=weights, bits=FLOAT_BITS, scale=np.ones_like(layer.scale))

    return _linears(program, changed)


def border_of_zeros(program: Program) -> Program:
    """Zeros around what the first batch norm of a RepConv gives, and not what it makes of zero."""
    bordered = {x.name for x in program.layers if x.weights.shape[:2] == (1, 1) and x.geometry.padding}

    def changed(layer: Linear) -> Linear:
        if layer.name in bordered:
            return layer.replace(geometry=dataclasses.replace(layer.geometry, padding=0))
        if layer.input in bordered:
            return layer.replace(geometry=dataclasses.replace(layer.geometry, padding=1))
        return layer

    return _linears(program, changed)


def with_biases(variables: Variables, layers: set[str], factor: float) -> Variables:
    """The variables with the biases of named layers, those of batch norms excepted, times a factor."""
    params: dict[Any, Any] = flatten_dict(variables["params"])
    for *layer, name in list(params):
        if name == "bias" and "/".join(layer) in layers:
            params[*layer, name] = params[*layer, name] * factor
    return {**variables, "params": unflatten_dict(params)}


def with_epsilon(variables: Variables, epsilon: float) -> Variables:
    """The variables whose batch norms, as they are here, do what these do with another epsilon."""
    statistics: dict[Any, Any] = flatten_dict(variables["batch_stats"])
    for path, value in statistics.items():
        if path[-1] == "var":  # What is added to it stays above zero.
            statistics[path] = np.maximum(np.asarray(value) + epsilon - EPSILON, np.float32(-0.999 * EPSILON))
    return {**variables, "batch_stats": unflatten_dict(statistics)}


def _linears(program: Program, change: Callable[[Linear], Linear]) -> Program:
    return program.replace(
        steps=tuple(change(step) if isinstance(step, Linear) else step for step in program.steps)
    )


class Wrong(NamedTuple):
    """A network with a mistake in it, and the arithmetic that runs it."""

    program: Program
    arithmetic: Arithmetic


class Mistake(NamedTuple):
    """A mistake by its name.

    Attributes:
      name: what is wrong.
      right: what is right, in words.
      make: the wrong network, made when it is asked for.
    """

    name: str
    right: str
    make: Callable[[], Wrong]


def mistakes_in(program: Program, model: Classifier | Segmenter, variables: Variables) -> Iterator[Mistake]:
    """The mistakes that can be made with a network, those that are seen most often first.

    Args:
      program: folded of the other two.
      model, variables: of the network.
    """
    neuron, integers = program.neuron, IntegerArithmetic()
    spiking = {layer.name for layer in program.layers if layer.spikes}

    def of_program(change: Callable[[Program], Program], arithmetic: Arithmetic = integers):
        return lambda: Wrong(change(program), arithmetic)

    def of_neuron(**fields: Any):
        return of_program(lambda program: program.replace(neuron=dataclasses.replace(neuron, **fields)))

    def of_variables(change: Callable[[Variables], Variables]):
        return lambda: Wrong(fold(model, change(variables)), integers)

    if neuron.levels > 1:
        once = f"they are added once, after the sum over the D = {neuron.levels} slots"
        biases = functools.partial(with_biases, layers=spiking, factor=neuron.levels)
        yield Mistake("the bias of a layer is counted in each slot", once, of_variables(biases))
        yield Mistake("bias and batch norm are counted in each slot", once, of_program(bias_in_every_slot))
        yield Mistake(
            "attention is run slot by slot",
            "q (k^T v) has the terms of unequal slots as well",
            lambda: Wrong(program, SlotsAlone(neuron.levels)),
        )
        yield Mistake("counts are clamped at 1", f"counts go up to D = {neuron.levels}", of_neuron(levels=1))
    clamp = f"counts are clamped at D = {neuron.levels}"
    yield Mistake("counts are not clamped from above", clamp, of_neuron(levels=LARGEST_COUNT))
    if neuron.threshold == 0.5:
        rounded = "the neuron rounds to the nearest count"
        yield Mistake("counts are rounded down", rounded, of_neuron(threshold=1.0))
    if neuron.timesteps > 1:
        other = "hard" if neuron.reset == "soft" else "soft"
        yield Mistake(f"the reset is {other}", f"the reset is {neuron.reset}", of_neuron(reset=other))
    yield Mistake(
        "batch norm is folded in another way: the border of a RepConv is zero",
        "its border is what its first batch norm makes of zero",
        of_program(border_of_zeros),
    )
    for epsilon in EPSILONS:
        yield Mistake(
            f"batch norm is folded in another way: its epsilon is {epsilon:g}",
            f"its epsilon is {EPSILON:g}",
            of_variables(functools.partial(with_epsilon, epsilon=epsilon)),
        )
    yield Mistake(
        "batch norm is folded in another way: into the weights, which are rounded once more",
        "scale and shift follow the sum of whole numbers",
        of_program(scale_in_weights, FloatArithmetic()),
    )
    for other in other_fields(model):
        yield Mistake(
            other.name, other.right, lambda changed=other.model: Wrong(fold(changed, variables), integers)
        )


class OtherFields(NamedTuple):
    """A network with the same variables and a field of another value."""

    name: str
    right: str
    model: Any


def other_fields(
    model: Classifier | Segmenter | SpikingResformer, *, frames: bool = False
) -> Iterator[OtherFields]:
    """A network with what its variables do not tell otherwise, one field after the other.

    Args:
      model: the network.
      frames: it is shown frames, so the time steps are as many as these.
    """
    base = model if isinstance(model, SpikingResformer) else model.backbone
    for name, values in _tried(base, frames).items():
        ours = getattr(base, name)
        for value in values:
            if value == ours or (name == "num_heads" and any(c % value for c in base.channels[2:])):
                continue
            other: Any = base.clone(**{name: value})
            changed = other if base is model else model.clone(backbone=other)
            yield OtherFields(f"it is run with {name}={value}", f"here it has {name}={ours}", changed)


def _tried(base: Backbone | SpikingResformer, frames: bool) -> dict[str, tuple[Any, ...]]:
    """Values of fields."""
    steps = {} if frames else {"timesteps": TIMESTEPS}
    if isinstance(base, SpikingResformer):
        return {**steps, "nominal_size": NOMINAL}
    heads, scales = {"num_heads": HEADS}, {"attention_scale": SCALES}
    bits = {} if base.bits == FLOAT_BITS else {"bits": BITS}
    if base.neuron != "lif":
        return {**heads, "levels": LEVELS, **bits, **scales}
    of_lif = {"decay_input": (False, True), "reset": ("hard", "soft"), "attention_threshold": (None,)}
    return {**heads, **of_lif, **steps, **bits, **scales}
