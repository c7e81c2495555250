"""How products become machine code: every choice that depends on the backend lives in this package.

A convolution and its two gradients, and the attention of spike counts, as plain functions on arrays (NHWC
images, HWIO kernels). None of them knows of quantisation. `dispatch` and `attention` are the doors; `cpu`,
`gpu` and `xla` (the one operation that others take) hold the ways, `kernels` what XLA does not fuse. Which of
them a program takes is decided when it is lowered (`lax.platform_dependent`), so that one exported for other
platforms takes theirs.
"""

from qsdt_jax.layers.lowering.attention import count_attention, integer_attention, real_attention
from qsdt_jax.layers.lowering.dispatch import convolve, convolve_digits, input_gradient, weight_gradient
from qsdt_jax.layers.lowering.geometry import ConvGeometry

__all__ = [
    "ConvGeometry",
    "convolve",
    "convolve_digits",
    "count_attention",
    "input_gradient",
    "integer_attention",
    "real_attention",
    "weight_gradient",
]
