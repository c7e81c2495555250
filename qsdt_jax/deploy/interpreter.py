"""Runs a program; how integers are multiplied is the business of the form (`integer`, `spike_driven`)."""

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.exact import exact_mean, rounded
from qsdt_jax.core.neurons import fire
from qsdt_jax.deploy.program import (
    IMAGES,
    LOGITS,
    Add,
    Attend,
    Bilinear,
    DepthToSpace,
    Fire,
    Linear,
    Pool,
    Program,
    Resize,
    Step,
    Subsample,
    inputs_of,
)
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.product import exact_convolution, kernel_digits
from qsdt_jax.layers.tokens import factors_of_counts, valid_tokens
from qsdt_jax.layers.transposed_conv import depth_to_space
from qsdt_jax.layers.upsample import bilinear_upsample
from qsdt_jax.models.backbone import STRIDE
from qsdt_jax.models.classifier import mean_over_time

Values = dict[str, jax.Array]


class Arithmetic(Protocol):
    """The two operations on spike counts, both exact.

    Attributes:
      floats: whether `product` takes float weights as they are, and not their digits.
    """

    floats: bool

    def product(self, counts: jax.Array, layer: Linear) -> jax.Array:
        """conv(counts, weights): int8 (N, H, W, I) -> int32 (N, H', W', O)."""
        ...

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
        """q (k^T v) for each head: int8 (N, L, C) -> int32 (N, L, C)."""
        ...


def interpret(
    program: Program, images: jax.Array, arithmetic: Arithmetic, sizes: jax.Array | None = None
) -> Values:
    """Every value of a program by name: counts as int8, all others float32.

    Args:
      program: a folded network.
      images: (B, H, W, C), shown in every time step, or (B, T, H, W, C) frames; H and W multiples of 16.
      arithmetic: the form.
      sizes: (B, 2) int32, height and width of each image in pixels, at the top left; the rest is padding.
        None where there is no padding.
    """
    values = {IMAGES: _frames(program, images)}
    if sizes is not None:
        sizes = jnp.repeat(sizes, program.neuron.timesteps, axis=0)
    for step in program.steps:
        values[step.name] = run_step(step, values, program, arithmetic, sizes)
    return values


def steps_of_outputs(program: Program, values: Values) -> Values:
    """(B * T, H, W, C) of each output by name, from the values of `interpret`."""
    return {name: values[value] for name, value in program.outputs}


def outputs_of(program: Program, values: Values) -> Values:
    """As `steps_of_outputs`, averaged over the time steps: (B, H, W, C)."""
    found, timesteps = steps_of_outputs(program, values), program.neuron.timesteps
    return {name: mean_over_time(y.reshape(-1, timesteps, *y.shape[1:])) for name, y in found.items()}


def class_scores(program: Program, values: Values) -> jax.Array:
    """Logits, (B, K) of images or (B, H, W, K) of their pixels, from the values of `interpret`."""
    y = outputs_of(program, values)[LOGITS]
    return y[:, 0, 0] if y.shape[1:3] == (1, 1) else y


def logits(
    program: Program, images: jax.Array, arithmetic: Arithmetic, sizes: jax.Array | None = None
) -> jax.Array:
    """As `class_scores`; arguments as for `interpret`."""
    return class_scores(program, interpret(program, images, arithmetic, sizes))


def shapes_of(
    program: Program, image_size: tuple[int, int], arithmetic: Arithmetic
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type of every value of `interpret` for one image of (height, width) pixels; computes nothing.

    Raises:
      ValueError: a step cannot be run on what it reads.
    """
    images = (program.neuron.timesteps, *image_size, program.in_channels)
    values: dict[str, Any] = {IMAGES: jax.ShapeDtypeStruct(images, jnp.float32)}
    for step in program.steps:
        inputs = {name: values[name] for name in inputs_of(step)}
        try:
            values[step.name] = jax.eval_shape(
                lambda step, inputs: run_step(step, inputs, program, arithmetic, None), step, inputs
            )
        except (TypeError, ValueError) as error:
            found = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            reason = str(error).partition("\n")[0]
            raise ValueError(f"step {step.name} cannot be run on {found}: {reason}") from None
    return values


def _frames(program: Program, images: jax.Array) -> jax.Array:
    if images.ndim == 4:
        images = jnp.repeat(images[:, None], program.neuron.timesteps, axis=1)
    return images.reshape(-1, *images.shape[2:]).astype(jnp.float32)


def run_step(
    step: Step, values: Values, program: Program, arithmetic: Arithmetic, sizes: jax.Array | None
) -> jax.Array:
    match step:
        case Linear():
            y = _product(step, values[step.input], arithmetic, program.neuron.levels)
            scale, shift = jnp.asarray(step.scale), jnp.asarray(step.shift)
            return Affine(values=y, scale=scale, shift=shift).real
        case Fire():
            x = values[step.input]
            current = x if step.input_gain == 1 else rounded(x * step.input_gain)
            return fire(current, program.neuron).counts.astype(jnp.int8)
        case Attend():
            return _attend(step, values, arithmetic, sizes)
        case Add():
            return values[step.left] + values[step.right]
        case Pool():
            return exact_mean(values[step.input], (1, 2))[:, None, None]
        case Resize():
            wide = jnp.repeat(values[step.input], step.factor, axis=2)
            return jnp.repeat(wide, step.factor, axis=1)
        case Bilinear():
            return bilinear_upsample(values[step.input])
        case DepthToSpace():
            return depth_to_space(values[step.input])
        case Subsample():
            return values[step.input][:, ::2, ::2]


def _product(layer: Linear, x: jax.Array, arithmetic: Arithmetic, levels: int) -> jax.Array:
    height, width, *_ = layer.weights.shape
    if height * width > 1 and x.shape[1:3] == (height, width) and layer.geometry == ConvGeometry():
        # A dense layer on all that its input has; as one it is many times faster.
        x, weights = x.reshape(len(x), 1, 1, -1), layer.weights.reshape(1, 1, -1, layer.weights.shape[-1])
        layer = layer.replace(weights=weights)
    if layer.spikes and layer.bits == FLOAT_BITS and not arithmetic.floats:
        digits = kernel_digits(jnp.asarray(layer.weights), levels)
        layers = (layer.replace(weights=digit.astype(jnp.int8)) for digit in digits.digits)
        return digits.joined([arithmetic.product(x, layer).astype(jnp.float32) for layer in layers])
    if layer.spikes:
        return arithmetic.product(x, layer).astype(jnp.float32)
    weights = jnp.asarray(layer.weights, x.dtype)
    return exact_convolution(x, weights, layer.geometry, layer.bits, portable=True)


def _attend(step: Attend, values: Values, arithmetic: Arithmetic, sizes: jax.Array | None) -> jax.Array:
    q, k, v = (_tokens(values[name]) for name in (step.q, step.k, step.v))
    _, *grid, _ = values[step.k].shape
    tokens = math.prod(grid)
    count: Any = tokens
    if sizes is not None:
        valid = valid_tokens(sizes, STRIDE, (grid[0], grid[1])).reshape(-1, tokens)
        k, count = jnp.where(valid[..., None], k, 0), jnp.sum(valid, 1, dtype=jnp.int32)[:, None, None]
    y = arithmetic.attention(q, k, v, step.heads).astype(jnp.float32)
    factors = jnp.asarray(factors_of_counts(step.scale, step.tokens, tokens, np.float32))
    return rounded(y * factors[count]).reshape(values[step.q].shape)


def _tokens(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1])
