"""RandAugment (Cubuk et al. 2020) with the 15 operations of timm's "rand-m9-mstd0.5-inc1".

Every operation is a pure function of an example, a level and a fill colour, and gives timm's pixels. Those
that move the image move the boxes and masks of the example with it, see `geometry`. The level is the
magnitude / 10, so 0..1, and has a random sign for those of SIGNED:

| operation                            | argument at level l                                      |
|--------------------------------------|----------------------------------------------------------|
| auto_contrast, equalize, invert      | none                                                     |
| posterize                            | 4 - int(4 l) bits are kept                               |
| solarize                             | values from 256 - int(256 l) on are inverted             |
| solarize_add                         | int(110 l) is added to values below 128                  |
| rotate                               | 30 l degrees                                             |
| shear_x, shear_y                     | 0.3 l                                                    |
| translate_x, translate_y             | 0.45 l of the width or height                            |
| color, contrast, brightness, sharpen | enhancement factor max(0.1, 1 + 0.9 l); 1 is no change   |

What resamples does so bicubically, as timm does where it is told to crop bicubically; timm's own default
draws bilinear or bicubic for each image. Pixels that come in from outside get the fill colour.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from qsdt_jax.data.geometry import Affine, Fill, moved
from qsdt_jax.data.images import to_picture, to_pixels
from qsdt_jax.data.sources import Example

LARGEST_MAGNITUDE = 10.0

Operation = Callable[[Example, float, Fill], Example]


def rand_augment(
    example: Example,
    generator: np.random.Generator,
    *,
    fill: Sequence[int],
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    num_operations: int = 2,
    probability: float = 0.5,
) -> Example:
    """Some random operations, one after the other.

    Args:
      example: "image" uint8 (H, W, C) with C 1 or 3; "boxes" and "masks" go where the image goes.
      generator: gives the operations and their levels.
      fill: colour of what comes in from outside, C values of 0..255.
      magnitude, magnitude_std, num_operations, probability: see `sample_operations`.

    Returns:
      The example with "image", uint8 (H, W, C), and what moved with it; the rest as it is.
    """
    colour = fill[0] if example["image"].shape[-1] == 1 else tuple(fill)
    for operation, level in sample_operations(
        generator, magnitude, magnitude_std, num_operations, probability
    ):
        example = operation(example, level, colour)
    return example


def sample_operations(
    generator: np.random.Generator,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    num_operations: int = 2,
    probability: float = 0.5,
) -> list[tuple[Operation, float]]:
    """Draws the operations of one image with their levels.

    Args:
      generator: gives the random numbers.
      magnitude: mean of the magnitude, which is normal and clipped to 0..10.
      magnitude_std: its standard deviation.
      num_operations: operations drawn, with replacement.
      probability: that an operation drawn is applied.

    Returns:
      Those to apply, in order.
    """
    chosen = generator.integers(len(OPERATIONS), size=num_operations)
    applied = generator.random(num_operations) < probability
    magnitudes = np.clip(
        generator.normal(magnitude, magnitude_std, num_operations), 0, LARGEST_MAGNITUDE
    ).tolist()
    signs = generator.choice((-1, 1), num_operations).tolist()
    drawn = []
    for i in np.flatnonzero(applied):
        operation = OPERATIONS[chosen[i]]
        level = magnitudes[i] / LARGEST_MAGNITUDE
        drawn.append((operation, signs[i] * level if operation in SIGNED else level))
    return drawn


def auto_contrast(example: Example, level: float, fill: Fill) -> Example:
    """Stretches each channel to 0..255."""
    return _recoloured(example, ImageOps.autocontrast)


def equalize(example: Example, level: float, fill: Fill) -> Example:
    """Makes the histogram of each channel as flat as a table can."""
    return _recoloured(example, ImageOps.equalize)


def invert(example: Example, level: float, fill: Fill) -> Example:
    """The negative."""
    return _recoloured(example, ImageOps.invert)


def posterize(example: Example, level: float, fill: Fill) -> Example:
    """Keeps the highest 4 - int(4 l) bits; at level 1 none, which is black."""
    bits = 4 - int(4 * level)
    # By a table of our own: Pillow 13 refuses to keep 0 bits.
    return _looked_up(example, [value & -(256 >> bits) for value in range(256)])


def solarize(example: Example, level: float, fill: Fill) -> Example:
    """Inverts values from 256 - int(256 l) on."""
    return _recoloured(example, lambda picture: ImageOps.solarize(picture, 256 - int(256 * level)))


def solarize_add(example: Example, level: float, fill: Fill) -> Example:
    """Adds int(110 l) to values below 128."""
    added = int(110 * level)
    return _looked_up(example, [value + added if value < 128 else value for value in range(256)])


def rotate(example: Example, level: float, fill: Fill) -> Example:
    """By 30 l degrees, counter-clockwise."""
    height, width = example["image"].shape[:2]
    # Rounded as Pillow rounds them, whose pixels these are.
    cos, sin = (round(f(math.radians(30 * level)), 15) for f in (math.cos, math.sin))
    x, y = width / 2, height / 2
    return _moved(example, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y), fill)


def shear_x(example: Example, level: float, fill: Fill) -> Example:
    """Row y moves by 0.3 l y pixels to the left."""
    return _moved(example, (1, 0.3 * level, 0, 0, 1, 0), fill)


def shear_y(example: Example, level: float, fill: Fill) -> Example:
    """Column x moves by 0.3 l x pixels upwards."""
    return _moved(example, (1, 0, 0, 0.3 * level, 1, 0), fill)


def translate_x(example: Example, level: float, fill: Fill) -> Example:
    """To the left by 0.45 l of the width."""
    return _moved(example, (1, 0, 0.45 * level * example["image"].shape[1], 0, 1, 0), fill)


def translate_y(example: Example, level: float, fill: Fill) -> Example:
    """Upwards by 0.45 l of the height."""
    return _moved(example, (1, 0, 0, 0, 1, 0.45 * level * example["image"].shape[0]), fill)


def color(example: Example, level: float, fill: Fill) -> Example:
    """Away from grey or towards it; a grey image stays as it is."""
    return _enhanced(example, ImageEnhance.Color, level)


def contrast(example: Example, level: float, fill: Fill) -> Example:
    """Away from the mean grey or towards it."""
    return _enhanced(example, ImageEnhance.Contrast, level)


def brightness(example: Example, level: float, fill: Fill) -> Example:
    """Away from black or towards it."""
    return _enhanced(example, ImageEnhance.Brightness, level)


def sharpen(example: Example, level: float, fill: Fill) -> Example:
    """Away from a smoothed image or towards it."""
    return _enhanced(example, ImageEnhance.Sharpness, level)


UNSIGNED: tuple[Operation, ...] = (auto_contrast, equalize, invert, posterize, solarize, solarize_add)
SIGNED: tuple[Operation, ...] = (
    rotate,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    color,
    contrast,
    brightness,
    sharpen,
)
OPERATIONS = UNSIGNED + SIGNED


def _recoloured(example: Example, change: Callable[[Image.Image], Image.Image]) -> Example:
    return {**example, "image": to_pixels(change(to_picture(example["image"])))}


def _looked_up(example: Example, table: list[int]) -> Example:
    return _recoloured(example, lambda picture: picture.point(table * len(picture.getbands())))


def _enhanced(example: Example, enhancer: Callable[[Image.Image], Any], level: float) -> Example:
    factor = max(0.1, 1 + 0.9 * level)
    return _recoloured(example, lambda picture: enhancer(picture).enhance(factor))


def _moved(example: Example, source: tuple[float, float, float, float, float, float], fill: Fill) -> Example:
    size = example["image"].shape[:2]
    return moved(example, Affine(size, source, Image.Resampling.BICUBIC, fill))
