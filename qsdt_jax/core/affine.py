"""What lies between a product and the next neuron, folded into one scale and one shift per channel.

In evaluation bias, batch norms and layer scale are affine maps per channel. They are composed first, on
vectors of one number per channel, and applied once:

    y = z * scale + shift

The deployed network stores scale and shift. That evaluation computes the same y in the same way is why the
two agree to the bit. Training applies each map at once, so there y is all that is left.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from qsdt_jax.core.exact import rounded


class Normalized(struct.PyTreeNode):
    """What batch norms, one behind the other, were given in training: one more can be computed with them.

    Attributes:
      values: (..., C), before the first of them.
      scales: (C,) of each.
      bias: (C,) of the last, the mean of what it gave.
    """

    values: Any
    scales: tuple[Any, ...]
    bias: Any


class Affine(struct.PyTreeNode):
    """What a layer gives: values * scale + shift, not computed yet; or final values.

    `+ v`, `- v` and `* v` with one number per channel compose, or are computed at once.

    Attributes:
      values: (..., C), the product z as it comes.
      scale, shift: (C,); None, both, where the values are final.
      normalized: where the values are what a batch norm gave in training.
    """

    values: Any
    scale: Any = None
    shift: Any = None
    normalized: Normalized | None = None

    def __add__(self, offset: jax.Array) -> "Affine":
        if self.scale is None:
            return Affine(self.values + offset)
        return self.replace(shift=self.shift + offset)

    def __sub__(self, offset: jax.Array) -> "Affine":
        if self.scale is None:
            return Affine(self.values - offset)
        return self.replace(shift=self.shift - offset)

    def __mul__(self, factor: jax.Array | float) -> "Affine":
        if self.scale is None:
            return Affine(self.values * factor)
        return self.replace(scale=rounded(self.scale * factor), shift=rounded(self.shift * factor))

    def padded(self, border: int) -> "Affine":
        """With zeros around the pixels of the product, axes 1 and 2."""
        edges = ((0, 0), (border, border), (border, border), (0, 0))
        return self.replace(values=jnp.pad(self.values, edges))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def real(self) -> jax.Array:
        """The real values (..., C), in the dtype of `values`."""
        if self.scale is None:
            return self.values
        return rounded(self.values * self.scale) + self.shift


def real(x: Affine | jax.Array) -> jax.Array:
    """The real values of what a layer gives or takes."""
    return x.real if isinstance(x, Affine) else x
