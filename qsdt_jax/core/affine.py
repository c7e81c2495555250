"""What lies between a product and the next neuron, folded into one scale and one shift per channel.

In evaluation bias, batch norms and layer scale are affine maps per channel. They are composed first, on
vectors of one number per channel, and applied once:

    y = z * scale + shift

The deployed network stores scale and shift. That evaluation computes the same y in the same way is why the
two agree to the bit.
"""

from typing import Any

import jax
from flax import struct

from qsdt_jax.core.exact import rounded


class Affine(struct.PyTreeNode):
    """values * scale + shift, not computed yet; `+ v`, `- v` and `* v` with one number per channel compose.

    Attributes:
      values: (..., C), the product z as it comes.
      scale, shift: (C,).
    """

    values: Any
    scale: jax.Array
    shift: jax.Array

    def __add__(self, offset: jax.Array) -> "Affine":
        return self.replace(shift=self.shift + offset)

    def __sub__(self, offset: jax.Array) -> "Affine":
        return self.replace(shift=self.shift - offset)

    def __mul__(self, factor: jax.Array) -> "Affine":
        return self.replace(scale=rounded(self.scale * factor), shift=rounded(self.shift * factor))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def real(self) -> jax.Array:
        """The real values (..., C), in the dtype of `values`."""
        return rounded(self.values * self.scale) + self.shift


def real(x: Affine | jax.Array) -> jax.Array:
    """The real values of what a layer gives."""
    return x.real if isinstance(x, Affine) else x
