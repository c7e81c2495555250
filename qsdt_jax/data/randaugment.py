"""RandAugment (Cubuk et al. 2020) with the 15 operations of timm's "rand-m9-mstd0.5-inc1".

Every operation is a pure function of a Pillow picture, a level and a fill colour, and gives timm's pixels.
The level is the magnitude / 10, so 0..1, and has a random sign for those of SIGNED:

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

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from qsdt_jax.data.images import to_picture, to_pixels

LARGEST_MAGNITUDE = 10.0

Fill = int | tuple[int, ...]
Operation = Callable[[Image.Image, float, Fill], Image.Image]


def rand_augment(
    image: np.ndarray,
    generator: np.random.Generator,
    *,
    fill: Sequence[int],
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    num_operations: int = 2,
    probability: float = 0.5,
) -> np.ndarray:
    """Some random operations, one after the other.

    Args:
      image: uint8 (H, W, C) with C 1 or 3.
      generator: gives the operations and their levels.
      fill: colour of what comes in from outside, C values of 0..255.
      magnitude, magnitude_std, num_operations, probability: see `sample_operations`.

    Returns:
      uint8 (H, W, C).
    """
    picture = to_picture(image)
    colour = fill[0] if image.shape[-1] == 1 else tuple(fill)
    for operation, level in sample_operations(
        generator, magnitude, magnitude_std, num_operations, probability
    ):
        picture = operation(picture, level, colour)
    return to_pixels(picture)


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


def auto_contrast(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Stretches each channel to 0..255."""
    return ImageOps.autocontrast(picture)


def equalize(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Makes the histogram of each channel as flat as a table can."""
    return ImageOps.equalize(picture)


def invert(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """The negative."""
    return ImageOps.invert(picture)


def posterize(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Keeps the highest 4 - int(4 l) bits; at level 1 none, which is black."""
    bits = 4 - int(4 * level)
    # By a table of our own: Pillow 13 refuses to keep 0 bits.
    return _look_up(picture, [value & -(256 >> bits) for value in range(256)])


def solarize(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Inverts values from 256 - int(256 l) on."""
    return ImageOps.solarize(picture, 256 - int(256 * level))


def solarize_add(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Adds int(110 l) to values below 128."""
    added = int(110 * level)
    return _look_up(picture, [value + added if value < 128 else value for value in range(256)])


def rotate(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """By 30 l degrees, counter-clockwise."""
    return picture.rotate(30 * level, Image.Resampling.BICUBIC, fillcolor=fill)


def shear_x(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Row y moves by 0.3 l y pixels to the left."""
    return _affine(picture, (1, 0.3 * level, 0, 0, 1, 0), fill)


def shear_y(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Column x moves by 0.3 l x pixels upwards."""
    return _affine(picture, (1, 0, 0, 0.3 * level, 1, 0), fill)


def translate_x(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """To the left by 0.45 l of the width."""
    return _affine(picture, (1, 0, 0.45 * level * picture.width, 0, 1, 0), fill)


def translate_y(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Upwards by 0.45 l of the height."""
    return _affine(picture, (1, 0, 0, 0, 1, 0.45 * level * picture.height), fill)


def color(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Away from grey or towards it; a grey image stays as it is."""
    return ImageEnhance.Color(picture).enhance(_factor(level))


def contrast(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Away from the mean grey or towards it."""
    return ImageEnhance.Contrast(picture).enhance(_factor(level))


def brightness(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Away from black or towards it."""
    return ImageEnhance.Brightness(picture).enhance(_factor(level))


def sharpen(picture: Image.Image, level: float, fill: Fill) -> Image.Image:
    """Away from a smoothed image or towards it."""
    return ImageEnhance.Sharpness(picture).enhance(_factor(level))


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


def _factor(level: float) -> float:
    return max(0.1, 1 + 0.9 * level)


def _look_up(picture: Image.Image, table: list[int]) -> Image.Image:
    return picture.point(table * len(picture.getbands()))


def _affine(picture: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill
    )
