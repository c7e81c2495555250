"""Merging: each chain of convolutions behind one neuron as a single convolution.

RepConv (1x1, 3x3 depthwise, 1x1) becomes a dense 3x3 convolution and the end of SepConv (7x7 depthwise,
1x1) a dense 7x7 one. Nothing non-linear lies in between, so the function stays the same, and every product
then receives spikes. But the weights of the new kernel are products of weights: no longer on a grid of few
bits, and many more.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.core.lsq import weight_range
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.program import Linear, Program, Step, inputs_of
from qsdt_jax.layers import lowering
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.lowering import ConvGeometry


class FloatArithmetic(IntegerArithmetic):
    """Spikes select float32 weights, of which merged kernels consist."""

    floats = True

    def product(self, counts: jax.Array, layer: Linear) -> jax.Array:
        weights = jnp.asarray(layer.weights, jnp.float32)
        return lowering.convolve(counts.astype(jnp.float32), weights, layer.geometry, jnp.float32)


def merge(program: Program, bits: int = 32) -> Program:
    """The program with every chain merged.

    Args:
      program: a folded network.
      bits: of the merged kernels, rounded to the grid that fits each output channel; 32 keeps them float32.
        The other layers keep theirs.

    Returns:
      A program for `FloatArithmetic`; with up to 8 bits the integer and the spike-driven form run it as well.
    """
    linears = {step.name: step for step in program.steps if isinstance(step, Linear)}
    kept: list[Step] = []  # From the last to the first.
    read = {value for _, value in program.outputs}
    for step in reversed(program.steps):
        if isinstance(step, Linear):
            if step.name not in read:
                continue  # All that read it have it in their chains.
            if len(chain := _chain(step, linears)) > 1:
                step = _quantized(_merged(chain), bits)
        read.update(inputs_of(step))
        kept.append(step)
    return program.replace(steps=tuple(reversed(kept)))


def _chain(last: Linear, linears: Mapping[str, Linear]) -> list[Linear]:
    """The convolutions of spikes that end in `last` and together are one, first to last.

    `last` alone where there are none: a kernel of real values stays on the grid of its bits, on which
    their digits are multiplied.
    """
    chain = [last]
    while (before := linears.get(chain[0].input)) is not None:
        # Zeros around real values are not what the layer before gives for silence around its spikes.
        if chain[0].geometry.stride > 1 or chain[0].geometry.padding > 0:
            break
        if not all(map(_pointwise, chain)) and not (_pointwise(before) and before.geometry.stride == 1):
            break  # Two kernels larger than 1x1, or a larger one on every second pixel.
        chain.insert(0, before)
    return chain if chain[0].spikes else [last]


def _pointwise(layer: Linear) -> bool:
    return layer.weights.shape[:2] == (1, 1)


def _merged(chain: list[Linear]) -> Linear:
    """One convolution for a `_chain`, in float64 until the end."""
    kernel, shift = _affine(chain[0])
    for layer in chain[1:]:
        following, own_shift = _affine(layer)
        # Only the first layer pads, so every tap of the others sees its shift.
        shift = np.einsum("m,ijmo->o", shift, following) + own_shift
        if following.shape[:2] == (1, 1):
            kernel = np.einsum("ijcm,mo->ijco", kernel, following[0, 0])
        else:
            kernel = np.einsum("cm,ijmo->ijco", kernel[0, 0], following)
    size = np.abs(kernel).max((0, 1, 2))
    scale = np.where(size > 0, size, 1)
    return Linear(
        name=chain[-1].name,
        input=chain[0].input,
        spikes=True,
        geometry=ConvGeometry(chain[0].geometry.stride, chain[0].geometry.padding),
        bits=FLOAT_BITS,
        weights=(kernel / scale).astype(np.float32),
        scale=scale.astype(np.float32),
        shift=shift.astype(np.float32),
    )


def _affine(layer: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Real dense kernel (kh, kw, I, O), scale included, and shift (O,)."""
    weights = np.asarray(layer.weights, np.float64)
    if layer.geometry.groups > 1:
        channels = weights.shape[-1]
        dense = np.zeros((*weights.shape[:2], channels, channels))
        dense[..., np.arange(channels), np.arange(channels)] = weights[:, :, 0]
        weights = dense
    return weights * np.asarray(layer.scale, np.float64), np.asarray(layer.shift, np.float64)


def _quantized(layer: Linear, bits: int) -> Linear:
    """Weights, of size 1 at most in each output channel, rounded to integers."""
    if bits == FLOAT_BITS:
        return layer
    _, largest = weight_range(bits)
    weights = np.rint(np.asarray(layer.weights) * largest).astype(np.int8)
    return layer.replace(bits=bits, weights=weights, scale=layer.scale / np.float32(largest))
