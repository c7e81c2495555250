"""What is drawn for a training image: geometry, and random erasing. Each draw follows from its generator."""

import numpy as np

from qsdt_jax.data.geometry import Affine, Crop, Flip, Geometry, Resize, Size, Steps

TRIES = 10  # For a random box that fits.
ERASED_BOX, NOISE_KEY = "erased_box", "noise_key"  # Of an example.

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""


def draw_affine(
    generator: np.random.Generator,
    size: Size,
    *,
    degrees: float = 10.0,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 0.1,
) -> Affine:
    """A small random rotation, shift, zoom and shear about the centre.

    Args:
      generator: gives the five random numbers.
      size: of the image, and of the result.
      degrees: rotation, uniform in +-degrees.
      translate: shift, uniform in +-translate of height and width.
      scale: zoom, uniform in 1 +- scale.
      shear: horizontal shear, uniform in +-shear.
    """
    height, width = size
    angle = np.deg2rad(generator.uniform(-degrees, degrees))
    zoom = 1 + generator.uniform(-scale, scale)
    slant = generator.uniform(-shear, shear)
    dy, dx = generator.uniform(-translate, translate, 2) * (height, width)
    rotate = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    inverse = rotate @ np.array([[1, slant], [0, 1]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre - inverse @ (centre + np.array([dx, dy]))
    a, b, d, e = inverse.ravel().tolist()
    c, f = offset.tolist()
    return Affine(size, (a, b, c, d, e, f))


def draw_flip(generator: np.random.Generator, width: int) -> Geometry:
    """Left and right change places with probability one half."""
    return Flip(width) if generator.random() < 0.5 else Steps()


def draw_resized_crop(
    generator: np.random.Generator,
    before: Size,
    size: Size,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Geometry:
    """A random part of the image, resized.

    A random box, or where none was found the largest centred one of an allowed aspect ratio (Szegedy et al.
    2015, as torchvision and timm draw it).

    Args:
      generator: gives the box.
      before: of the image.
      size: of the result.
      area: bounds of the box's share of the area.
      aspect: bounds of its width / height.
    """
    height, width = before
    box = random_box(generator, before, area=area, aspect=aspect)
    if box is None:
        w = min(width, round(height * aspect[1]))
        h = min(height, round(width / aspect[0]))
        box = (height - h) // 2, (width - w) // 2, h, w
    return Steps((Crop(*box), Resize(box[2:], size)))


def draw_erasing(
    generator: np.random.Generator,
    size: Size,
    *,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> dict[str, np.ndarray]:
    """A random box to be erased and the key of its noise, for `inputs.erase`.

    Nothing is erased where no box was found, which is rare.

    Args:
      generator: decides, and gives box and key.
      size: of the image.
      probability: that a box is erased.
      area: bounds of the box's share of the area.
      aspect: bounds of its width / height.

    Returns:
      {ERASED_BOX: int32 (4,), NOISE_KEY: uint32 (2,)}, all 0 where nothing is erased.
    """
    box, key = None, np.zeros(2, np.uint32)
    if generator.random() < probability:
        # timm erases neither the whole height nor the whole width.
        box = random_box(generator, size, area=area, aspect=aspect, margin=1)
    if box is not None:
        key = generator.integers(2**32, size=2, dtype=np.uint32)
    return {ERASED_BOX: np.array(box or (0, 0, 0, 0), np.int32), NOISE_KEY: key}


def random_box(
    generator: np.random.Generator,
    within: tuple[int, int],
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    margin: int = 0,
) -> Box | None:
    """A box of uniform area and log-uniform aspect ratio at a uniform place, in ten tries.

    Args:
      generator: gives the random numbers.
      within: (height, width) of the image.
      area: bounds of the box's share of the image's area.
      aspect: bounds of its width / height.
      margin: pixels by which height and width must at least be smaller than the image's.

    Returns:
      The first try whose size fits, or None.
    """
    height, width = within
    for _ in range(TRIES):
        target = height * width * generator.uniform(*area)
        ratio = np.exp(generator.uniform(*np.log(aspect)))
        h, w = round(np.sqrt(target / ratio)), round(np.sqrt(target * ratio))
        if 0 < h <= height - margin and 0 < w <= width - margin:
            top, left = generator.integers(height - h + 1), generator.integers(width - w + 1)
            return int(top), int(left), h, w
    return None
