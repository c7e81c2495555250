"""Whether a program can be run: what its steps read and give, and that no whole number is too large.

The whole numbers of a program, for D levels, and what holds them:

    counts        at most D                                                int8
    conv(c, w)    at most D times the sum of |w| of an output              float32 of evaluation, up to 2^24
    k^T v         at most L D^2: a sum over the L tokens                   int32, as the next
    q (k^T v)     at most L d D^3: a sum over the d = C / heads of those   int32, below 2^31

Evaluation sums attention in float32 where L d D^3 is at most 2^24, and above that in int32 as well
(`lowering.count_attention`); so does the integer form on a GPU, in pieces that bfloat16 holds. The NumPy
reader takes float64, ONNX float32 or float64 by the same bound. Products are summed in float32 by the NumPy
reader, and by ONNX where they are depthwise: hence the bound on the weights as they are.
"""

import dataclasses
import math

import jax
import numpy as np

from qsdt_jax import bounds
from qsdt_jax.core.exact import LARGEST_FLOAT32, LARGEST_INT32, attention_sum
from qsdt_jax.core.lsq import weight_range
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import shapes_of
from qsdt_jax.deploy.program import (
    IMAGES,
    Add,
    Array,
    Attend,
    Fire,
    Linear,
    Program,
    Resize,
    Step,
    inputs_of,
)
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.memory import require_memory

TRACED_TIMESTEPS = 2
LARGEST_COUNT = 127
FACTOR = 64  # Largest of a resize.
HUGE = float(np.finfo(np.float32).max)  # No number of NumPy, in whose type larger ones would be compared.


def check_program(program: Program, image_size: tuple[int, int]) -> None:
    """Refuses a program that cannot be run, or not by all forms alike, on images of (height, width) pixels.

    Raises:
      UserError: a step reads what none before it gives, or something of a kind or shape that it cannot use;
        an output is no real value of it; a scale or shift is not finite; counts or sums are too large.
    """
    _check_steps(program)
    check_counts(program.neuron.levels)
    for layer in program.layers:
        _check_layer(layer, program.neuron.levels)
    # Time repeats the same shapes, and each step of it takes time to trace.
    steps = min(program.neuron.timesteps, TRACED_TIMESTEPS)
    short = program.replace(neuron=dataclasses.replace(program.neuron, timesteps=steps))
    try:
        shapes = shapes_of(short, image_size, IntegerArithmetic())
    except ValueError as error:
        raise UserError(str(error)) from None
    for step in program.steps:
        _check_kinds(step, shapes)
        if isinstance(step, Add) and shapes[step.left].shape != shapes[step.right].shape:
            left, right = (list(shapes[name].shape) for name in (step.left, step.right))
            raise UserError(
                f"step {step.name} adds {step.left} {left} and {step.right} {right}; expected one shape"
            )
        if isinstance(step, Attend):
            _check_attention(step, shapes[step.k], program.neuron.levels)
    largest = max(math.prod(value.shape) * value.dtype.itemsize for value in shapes.values())
    require_memory(largest * program.neuron.timesteps // steps, "one image in this network")
    for name, value in program.outputs:
        found = shapes[value]
        if found.dtype == np.int8:
            raise UserError(f"its output {name} is {value}, which gives spikes; expected real values")


def check_counts(levels: int) -> None:
    """Raises UserError where counts up to `levels` do not fit int8."""
    if levels > LARGEST_COUNT:
        raise UserError(f"spike counts up to D = {levels} do not fit int8; expected D <= {LARGEST_COUNT}")


def check_sums(name: str, weights: Array, levels: int) -> None:
    """Raises UserError where sums of a layer that receives spikes can be more than float32 holds.

    Of float weights those of digits of a bit or more: digits are as short as the sums ask.
    """
    if np.issubdtype(weights.dtype, np.floating):
        largest = math.prod(weights.shape[:3]) * levels
    else:
        largest = int(np.abs(np.asarray(weights, np.int64)).sum((0, 1, 2)).max()) * levels
    if largest > LARGEST_FLOAT32:
        raise UserError(
            f"sums in {name} can reach {largest}, so evaluation and integer form would differ: "
            f"float32 holds whole numbers up to {LARGEST_FLOAT32}"
        )


def _check_steps(program: Program) -> None:
    known = {IMAGES}
    for step in program.steps:
        for name in inputs_of(step):
            if name not in known:
                raise UserError(f"step {step.name} reads {name}, which no step before it gives")
        if step.name in known:
            raise UserError(f"two values are called {step.name}")
        known.add(step.name)
        if isinstance(step, Attend) and (type(step.heads) is not int or step.heads < 1):
            raise UserError(f"step {step.name} has {step.heads!r} heads; expected a positive whole number")
        if isinstance(step, Attend) and (
            type(step.tokens) is not int or not 0 <= step.tokens <= LARGEST_FLOAT32
        ):
            raise UserError(f"step {step.name} has {step.tokens!r} tokens; expected 0 to {LARGEST_FLOAT32}")
        if isinstance(step, Attend) and not abs(step.scale) * max(step.tokens, 1) <= HUGE:
            raise UserError(f"the scale of {step.name} is {step.scale}")
        if isinstance(step, Fire) and not _positive(step.input_gain):
            raise UserError(f"step {step.name} has the gain {step.input_gain!r}; expected a positive number")
        if isinstance(step, Resize) and (type(step.factor) is not int or not 1 <= step.factor <= FACTOR):
            raise UserError(f"step {step.name} has the factor {step.factor!r}; expected 1 to {FACTOR}")
    if not program.outputs:
        raise UserError("it has no output")
    for name, value in program.outputs:
        if value not in known - {IMAGES}:
            raise UserError(f"its output {name} is {value}, which no step gives")


def _check_layer(layer: Linear, levels: int) -> None:
    if len(layer.weights.shape) != 4 or layer.weights.size == 0:
        raise UserError(f"weights of {layer.name} of shape {layer.weights.shape}; expected (kh, kw, I, O)")
    *_, inputs, outputs = layer.weights.shape
    if layer.bits == FLOAT_BITS:
        _check_floats(layer)
    else:
        _check_integers(layer)
    geometry = layer.geometry
    if geometry.groups != 1 and (geometry.groups, inputs) != (outputs, 1):
        raise UserError(f"{layer.name} has {geometry.groups} groups; expected 1, or one for each channel")
    if not all(type(number) is int for number in dataclasses.astuple(geometry)) or not (
        1 <= geometry.stride <= bounds.KERNEL and 0 <= geometry.padding <= bounds.KERNEL
    ):
        raise UserError(f"{layer.name} has stride {geometry.stride!r} and padding {geometry.padding!r}")
    for name, vector in (("scale", layer.scale), ("shift", layer.shift)):
        if vector.shape != (outputs,) or not np.isfinite(vector).all():
            raise UserError(f"{name} of {layer.name}: expected {outputs} finite numbers")
    if layer.spikes:
        check_sums(layer.name, layer.weights, levels)


def _check_floats(layer: Linear) -> None:
    if not layer.spikes:
        raise UserError(f"{layer.name} has float weights and takes real values; expected spikes")
    if layer.weights.dtype != np.float32 or not np.isfinite(layer.weights).all():
        raise UserError(f"weights of {layer.name}: expected finite float32 numbers")


def _check_integers(layer: Linear) -> None:
    if type(layer.bits) is not int or not 1 <= layer.bits <= 8:
        raise UserError(f"{layer.name} has weights of {layer.bits!r} bits; expected 1 to 8, or 32 for float")
    smallest, largest = weight_range(layer.bits)
    found = min(np.min(layer.weights), smallest), max(np.max(layer.weights), largest)
    if found != (smallest, largest):
        outside = next(int(w) for w in found if not smallest <= w <= largest)
        raise UserError(
            f"weights of {layer.name} reach {outside}; expected {smallest} to {largest}, which "
            f"{layer.bits} bits hold"
        )


def _positive(number: object) -> bool:
    """Whether it is a number that float32 holds and that is above 0."""
    return isinstance(number, int | float) and 0 < number <= HUGE


def _check_kinds(step: Step, shapes: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Counts, which are int8, go where counts are expected, and real values elsewhere."""
    counts = isinstance(step, Attend) or (isinstance(step, Linear) and step.spikes)
    for name in inputs_of(step):
        if (shapes[name].dtype == np.int8) != counts:
            expected, found = ("spikes", "real values") if counts else ("real values", "spikes")
            raise UserError(f"step {step.name} takes {expected}, but {name} gives {found}")


def _check_attention(step: Attend, of_k: jax.ShapeDtypeStruct, levels: int) -> None:
    _, *pixels, channels = of_k.shape
    tokens, width = math.prod(pixels), channels // step.heads
    largest = attention_sum(tokens, width, levels)
    if largest > LARGEST_INT32:
        raise UserError(
            f"sums in {step.name} can reach {largest} ({tokens} tokens x {width} channels of a head x D^3, "
            f"D = {levels}), but int32 holds whole numbers up to {LARGEST_INT32}"
        )
