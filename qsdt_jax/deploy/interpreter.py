"""Runs a program; how integers are multiplied is the business of the form (`integer`, `spike_driven`)."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.exact import exact_mean, rounded
from qsdt_jax.core.neurons import fire
from qsdt_jax.deploy.program import (
    IMAGES,
    LOGITS,
    Add,
    Attend,
    Fire,
    Linear,
    Pool,
    Program,
    Resize,
    Step,
    inputs_of,
)
from qsdt_jax.layers.product import exact_convolution
from qsdt_jax.models.classifier import mean_over_time

Values = dict[str, jax.Array]


class Arithmetic(Protocol):
    """The two operations on spike counts, both exact."""

    def product(self, counts: jax.Array, layer: Linear) -> jax.Array:
        """conv(counts, weights): int8 (N, H, W, I) -> int32 (N, H', W', O)."""
        ...

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
        """q (k^T v) for each head: int8 (N, L, C) -> int32 (N, L, C)."""
        ...


def interpret(program: Program, images: jax.Array, arithmetic: Arithmetic) -> Values:
    """Every value of a program by name: counts as int8, all others float32.

    Args:
      program: a folded network.
      images: (B, H, W, C), shown in every time step, or (B, T, H, W, C) frames; H and W multiples of 16.
      arithmetic: the form.
    """
    values = {IMAGES: _frames(program, images)}
    for step in program.steps:
        values[step.name] = _run(step, values, program, arithmetic)
    return values


def outputs_of(program: Program, values: Values) -> Values:
    """(B, H, W, C) of each output by name, averaged over the time steps, from the values of `interpret`."""
    found = {name: values[value] for name, value in program.outputs}
    timesteps = program.neuron.timesteps
    return {name: mean_over_time(y.reshape(-1, timesteps, *y.shape[1:])) for name, y in found.items()}


def class_scores(program: Program, values: Values) -> jax.Array:
    """(B, K) logits of a classifier, from the values of `interpret`."""
    y = outputs_of(program, values)[LOGITS]
    return y.reshape(-1, y.shape[-1])


def logits(program: Program, images: jax.Array, arithmetic: Arithmetic) -> jax.Array:
    """(B, K) class scores; arguments as for `interpret`."""
    return class_scores(program, interpret(program, images, arithmetic))


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
                lambda step, inputs: _run(step, inputs, program, arithmetic), step, inputs
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


def _run(step: Step, values: Values, program: Program, arithmetic: Arithmetic) -> jax.Array:
    match step:
        case Linear():
            y = _product(step, values[step.input], program, arithmetic)
            scale, shift = jnp.asarray(step.scale), jnp.asarray(step.shift)
            return Affine(values=y, scale=scale, shift=shift).real
        case Fire():
            return fire(values[step.input], program.neuron).counts.astype(jnp.int8)
        case Attend():
            q, k, v = (_tokens(values[name]) for name in (step.q, step.k, step.v))
            y = arithmetic.attention(q, k, v, step.heads).astype(jnp.float32)
            return rounded(y * step.scale).reshape(values[step.q].shape)
        case Add():
            return values[step.left] + values[step.right]
        case Pool():
            return exact_mean(values[step.input], (1, 2))[:, None, None]
        case Resize():
            wide = jnp.repeat(values[step.input], step.factor, axis=2)
            return jnp.repeat(wide, step.factor, axis=1)


def _product(layer: Linear, x: jax.Array, program: Program, arithmetic: Arithmetic) -> jax.Array:
    if layer.spikes:
        return arithmetic.product(x, layer).astype(jnp.float32)
    return exact_convolution(x, jnp.asarray(layer.weights, x.dtype), layer.geometry, program.bits)


def _tokens(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1])
