"""Photometric distortion (SSD, Liu et al. 2016): colours as of another camera or in another light.

Each operation takes and gives uint8 (H, W, C), rounded and clipped to 0..255. Hue and saturation are those of
HSV; an image of one channel has neither, and stays as it is.
"""

import dataclasses

import numpy as np

BRIGHTNESS = 32.0  # Largest shift, in levels.
FACTORS = (0.5, 1.5)  # Of contrast and saturation.
HUE = 0.1  # Largest turn, of the whole circle: 18 of 180 in the units of the published code.
PROBABILITY = 0.5  # Of each operation.


@dataclasses.dataclass(frozen=True)
class Photometric:
    """A distortion as a value; in the order of its fields, contrast first or last.

    Attributes:
      brightness: levels that are added.
      contrast: factor on the levels.
      saturation: factor.
      hue: turn, of the whole circle.
      contrast_first: whether contrast comes right after brightness, or at the end.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_first: bool = True

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C) of the same."""
        image = brightened(image, self.brightness)
        if self.contrast_first:
            image = contrasted(image, self.contrast)
        image = hue_turned(saturated(image, self.saturation), self.hue)
        return image if self.contrast_first else contrasted(image, self.contrast)


def draw_photometric(generator: np.random.Generator) -> Photometric:
    """Each operation with probability one half, its strength uniform; contrast first or last alike often."""

    def drawn(low: float, high: float, otherwise: float) -> float:
        strength = float(generator.uniform(low, high))
        return strength if generator.random() < PROBABILITY else otherwise

    return Photometric(
        brightness=drawn(-BRIGHTNESS, BRIGHTNESS, 0.0),
        contrast=drawn(*FACTORS, 1.0),
        saturation=drawn(*FACTORS, 1.0),
        hue=drawn(-HUE, HUE, 0.0),
        contrast_first=bool(generator.random() < 0.5),
    )


def brightened(image: np.ndarray, levels: float) -> np.ndarray:
    """`levels` are added."""
    return _looked_up(image, np.arange(256) + levels)


def contrasted(image: np.ndarray, factor: float) -> np.ndarray:
    """Levels times `factor`."""
    return _looked_up(image, np.arange(256) * factor)


def saturated(image: np.ndarray, factor: float) -> np.ndarray:
    """Saturation times `factor`, at most 1; value and hue stay."""
    if factor == 1 or image.shape[-1] == 1:
        return image
    value, chroma = _value_and_chroma(image)
    # Saturation is chroma / value: no factor takes it beyond 1.
    factors = np.minimum(np.float32(factor), value / np.maximum(chroma, 1))
    return _rounded(value[..., None] - (value[..., None] - image) * factors[..., None])


def hue_turned(image: np.ndarray, turn: float) -> np.ndarray:
    """The hue turned by `turn` of the circle; value and saturation stay."""
    if turn == 0 or image.shape[-1] == 1:
        return image
    value, chroma = _value_and_chroma(image)
    red, green, blue = np.moveaxis(image.astype(np.float32), -1, 0)
    safe = np.maximum(chroma, 1)
    sixth = np.where(
        value == red,
        (green - blue) / safe,
        np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth += np.float32(6 * turn)
    # A channel is full within 60 degrees of its own hue and empty from 120 degrees on.
    channels = []
    for centre in (0, 2, 4):
        away = np.abs((sixth - centre + 3) % 6 - 3)
        channels.append(value - chroma * np.clip(away - 1, 0, 1))
    return _rounded(np.stack(channels, axis=-1))


def _value_and_chroma(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (H, W), the largest channel, and what it has more than the smallest."""
    # By hand: NumPy is many times slower along an innermost axis of length 3.
    red, green, blue = np.moveaxis(image, -1, 0)
    largest = np.maximum(np.maximum(red, green), blue)
    smallest = np.minimum(np.minimum(red, green), blue)
    return largest.astype(np.float32), (largest - smallest).astype(np.float32)


def _looked_up(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return _rounded(levels)[image]


def _rounded(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)
