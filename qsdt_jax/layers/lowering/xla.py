"""A convolution and its two gradients as one `lax.conv_general_dilated` each."""

import jax
from jax import lax
from jax.typing import DTypeLike

from qsdt_jax.layers.lowering.geometry import ConvGeometry, dilated_padding


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    geometry: ConvGeometry,
    accumulate: DTypeLike,
    precision: lax.Precision | None = None,
) -> jax.Array:
    """The convolution, its sums and result in `accumulate`."""
    p = geometry.padding
    return lax.conv_general_dilated(
        x,
        kernel,
        (geometry.stride, geometry.stride),
        ((p, p), (p, p)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
        precision=precision,
        preferred_element_type=accumulate,
    )


def input_gradient(
    dy: jax.Array, kernel: jax.Array, x_shape: tuple[int, ...], geometry: ConvGeometry, accumulate: DTypeLike
) -> jax.Array:
    """dx = conv(dilated dy, kernel turned by 180 degrees), the roles of I and O exchanged in each group."""
    kh, kw, per_group, out = kernel.shape
    groups = geometry.groups
    turned = kernel[::-1, ::-1].reshape(kh, kw, per_group, groups, out // groups)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(kh, kw, out // groups, groups * per_group)
    return lax.conv_general_dilated(
        dy,
        turned,
        (1, 1),
        dilated_padding(dy.shape, kernel.shape, x_shape, geometry),
        lhs_dilation=(geometry.stride, geometry.stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=accumulate,
    )


def weight_gradient(
    x: jax.Array,
    dy: jax.Array,
    kernel_shape: tuple[int, ...],
    geometry: ConvGeometry,
    accumulate: DTypeLike,
) -> jax.Array:
    """dw = conv(x, dilated dy) with the batch as the contracted axis."""
    p, s = geometry.padding, geometry.stride
    padding = tuple(
        (p, k - 1 + (out - 1) * s + 1 - size - p)
        for k, size, out in zip(kernel_shape[:2], x.shape[1:3], dy.shape[1:3], strict=True)
    )
    return lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        padding,
        rhs_dilation=(s, s),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        batch_group_count=geometry.groups,
        preferred_element_type=accumulate,
    )
