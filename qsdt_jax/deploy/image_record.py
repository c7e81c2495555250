"""What the manifest of a bundle says of the images, or frames, that its network is shown; what cannot be."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from qsdt_jax import bounds
from qsdt_jax.data.dense.buckets import Buckets, grid_of
from qsdt_jax.data.events.frames import POLARITIES, WITH_SUM, Slicing
from qsdt_jax.models.backbone import STRIDE

# The normal numbers of float32, in which a manifest's become arithmetic.
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def check_image(image: Mapping[str, Any], channels: int) -> None:
    """Raises ValueError for what cannot be; `channels` are those of the first layer."""
    _check_size(image["size"])
    if image["channels"] != channels:
        raise ValueError(f"images of {image['channels']} channels, but its first layer takes {channels}")
    if not within(image["crop_ratio"], bounds.SMALLEST_CROP, 1):
        raise ValueError(f"crop_ratio {image['crop_ratio']!r}; expected a number in 0..1, not 0 nor near it")
    if (slicing := image.get("slicing")) not in (None, *get_args(Slicing)):
        raise ValueError(f"slicing {slicing!r}; expected {', '.join(get_args(Slicing))}, or none")
    if slicing and channels not in (POLARITIES, WITH_SUM):
        raise ValueError(
            f"slicing {slicing!r}, but frames of events have {POLARITIES} or {WITH_SUM} channels"
        )
    for name, low in (("mean", -HUGE), ("std", TINY)):
        values = image[name]
        if len(values) not in (1, channels) or not all(within(value, low, HUGE) for value in values):
            kind = "positive number" if name == "std" else "number"
            raise ValueError(f"{name} {values!r}; expected one {kind}, or one for each channel ({channels})")


def buckets_of(image: Mapping[str, Any]) -> Buckets:
    """How images are shown whole; raises ValueError where that cannot be."""
    short, long, sizes = image["short_side"], image["long_side"], image["buckets"]
    if not all(type(side) is int and 0 <= side <= bounds.SIDE for side in (short, long)) or long < short:
        raise ValueError(
            f"short_side {short!r} and long_side {long!r}; expected whole numbers of pixels, at most "
            f"{bounds.SIDE}, the second not below the first"
        )
    for size in sizes:
        _check_size(size)
    return Buckets(short, long, tuple((height, width) for height, width in sizes), grid_of(image["size"]))


def _check_size(size: Any) -> None:
    if len(size) != 2 or any(type(side) is not int or side < STRIDE or side % STRIDE for side in size):
        raise ValueError(f"images of {'x'.join(map(str, size))} pixels; expected multiples of {STRIDE}")
    if max(size) > bounds.SIDE:
        raise ValueError(f"images of {size[0]}x{size[1]} pixels; expected at most {bounds.SIDE} a side")


def within(value: Any, low: float, high: float) -> bool:
    """False for NaN and for what is no number at all."""
    return type(value) in (int, float) and low <= value <= high
