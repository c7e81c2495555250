"""The shape of a convolution, and what every way of lowering one asks about it."""

import dataclasses

# Above this many taps a sum of shifted products takes long to compile.
MOST_TAPS = 81


@dataclasses.dataclass(frozen=True)
class ConvGeometry:
    """Stride, symmetric zero padding (pixels) and number of channel groups of a 2-D convolution."""

    stride: int = 1
    padding: int = 0
    groups: int = 1


def is_depthwise(kernel_shape: tuple[int, ...], geometry: ConvGeometry) -> bool:
    """One filter for each channel, of so few taps that they can be written out one by one."""
    kh, kw, per_group, out = kernel_shape
    return per_group == 1 and geometry.groups == out > 1 and kh * kw <= MOST_TAPS


def is_pointwise(kernel_shape: tuple[int, ...], geometry: ConvGeometry) -> bool:
    """A matrix product over the channels of each pixel."""
    return tuple(kernel_shape[:2]) == (1, 1) and geometry.groups == 1 and geometry.padding == 0


def dilated_padding(
    dy_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    geometry: ConvGeometry,
) -> tuple[tuple[int, int], ...]:
    """Padding of the dilated dy such that a correlation with the kernel has x's height and width.

    Negative where the padding of x exceeds the kernel or where the last rows of x are unused.
    """
    p, s = geometry.padding, geometry.stride
    return tuple(
        (k - 1 - p, size + p - 1 - (out - 1) * s)
        for k, size, out in zip(kernel_shape[:2], x_shape[1:3], dy_shape[1:3], strict=True)
    )
