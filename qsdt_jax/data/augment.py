"""Random changes of training images, each a pure function of its image and generator."""

import numpy as np
from PIL import Image


def random_affine(
    image: np.ndarray,
    generator: np.random.Generator,
    *,
    degrees: float = 10.0,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 0.1,
) -> np.ndarray:
    """A small random rotation, shift, zoom and shear about the centre; what comes in is black.

    Args:
      image: uint8 (H, W, C) with C 1 or 3.
      generator: gives the five random numbers.
      degrees: rotation, uniform in +-degrees.
      translate: shift, uniform in +-translate of height and width.
      scale: zoom, uniform in 1 +- scale.
      shear: horizontal shear, uniform in +-shear.
    """
    height, width = image.shape[:2]
    angle = np.deg2rad(generator.uniform(-degrees, degrees))
    zoom = 1 + generator.uniform(-scale, scale)
    slant = generator.uniform(-shear, shear)
    dy, dx = generator.uniform(-translate, translate, 2) * (height, width)
    rotate = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    inverse = rotate @ np.array([[1, slant], [0, 1]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre - inverse @ (centre + np.array([dx, dy]))
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    planes = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    moved = planes.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved).reshape(image.shape)


def random_flip(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mirrors left and right with probability one half."""
    return image[:, ::-1] if generator.random() < 0.5 else image


def random_resized_crop(
    image: np.ndarray,
    generator: np.random.Generator,
    size: tuple[int, int],
    *,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A random part of the image, resized to `size` (bicubic, antialiased).

    Ten tries for a box of random area share and log-uniform aspect ratio that fits; else the largest
    centred box of an allowed ratio (Szegedy et al. 2015, as torchvision draws it).

    Args:
      image: uint8 (H, W, C).
      generator: gives the box.
      size: (height, width) of the result.
      area: bounds of the box's share of the area.
      ratio: bounds of its width / height.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        target = height * width * generator.uniform(*area)
        aspect = np.exp(generator.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(target * aspect)), round(np.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = generator.integers(height - h + 1), generator.integers(width - w + 1)
            return _resized_box(image, (int(top), int(left), h, w), size)
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return _resized_box(image, ((height - h) // 2, (width - w) // 2, h, w), size)


def _resized_box(image: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    top, left, height, width = box
    planes = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    crop = planes.crop((left, top, left + width, top + height))
    resized = crop.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(*size, image.shape[-1])
