"""Operations whose weight and input are both nonzero, counted exactly in the values of a folded network."""

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.deploy.interpreter import Values
from qsdt_jax.deploy.program import Linear, Program


def effective_operations(program: Program, values: Values) -> dict[str, jax.Array]:
    """Effective operations of each layer with weights, by its name.

    A spike, one of the D slots of a count, is added once for each nonzero weight that it meets; a nonzero
    real value is multiplied once for each. What lies on zero padding meets nothing. Attention has no weights,
    so it is not among the layers.

    Args:
      program: a folded network.
      values: of `interpreter.interpret`, of images without padding.

    Returns:
      (B * T, I) int32 for each layer: by image, time step and channel of the input. A sum over the pixels of
      one channel stays below 2**31 if H W D kh kw O / groups does.
    """
    found = {}
    for layer in program.layers:
        x = values[layer.input]
        times = x if layer.spikes else x != 0
        meets = weights_met(layer, x.shape[1:3], values[layer.name].shape[1:3])
        found[layer.name] = jnp.sum(times.astype(jnp.int32) * meets, (1, 2), dtype=jnp.int32)
    return found


def weights_met(layer: Linear, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> jax.Array:
    """How many nonzero weights each element of a layer's input meets, its fan-out: (H, W, I) int32.

    Args:
      layer: a convolution or a dense layer.
      inputs, outputs: height and width of what comes in and goes out.
    """
    height, width, per_group, channels = layer.weights.shape
    groups = layer.geometry.groups
    nonzero = (jnp.asarray(layer.weights) != 0).astype(jnp.int32)
    nonzero = nonzero.reshape(height, width, per_group, groups, channels // groups).sum(-1)
    nonzero = jnp.moveaxis(nonzero, -1, 2).reshape(height, width, groups * per_group)
    rows = _taps(layer, inputs[0], height, outputs[0])
    columns = _taps(layer, inputs[1], width, outputs[1])
    return jnp.einsum("hi,wj,ijc->hwc", rows, columns, nonzero)


def _taps(layer: Linear, size: int, taps: int, outputs: int) -> np.ndarray:
    """Whether a place along an axis meets a tap of the kernel in any output: 0 or 1, (size, taps) int32."""
    geometry = layer.geometry
    first = np.arange(size)[:, None] + geometry.padding - np.arange(taps)  # Of the window, in padded places.
    whole, rest = np.divmod(first, geometry.stride)
    return ((rest == 0) & (whole >= 0) & (whole < outputs)).astype(np.int32)
