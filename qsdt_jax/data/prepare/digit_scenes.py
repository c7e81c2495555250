"""Scenes of scikit-learn's handwritten digits on textured canvases, for segmentation and detection.

A scene is a pure function of (seed, split, index). Its digits are those of the same split of `DigitsSource`,
so that no digit of a validation scene was seen in training. Clutter is drawn first. Then come the digits one
after the other, and the later ones hide the earlier ones; of each at least `VISIBLE` stays.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from PIL import Image

from qsdt_jax.data.once import once
from qsdt_jax.data.prepare.canvas import clutter, texture
from qsdt_jax.data.sources import DIGITS, DigitsSource, SplitName

CLASS_NAMES = ("background", *DIGITS)
BACKGROUND, UNLABELLED = 1, 0  # Of an annotation, as ADE20K numbers: digit d is 2 + d.
SIDES = (96, 160)  # Pixels of a canvas, bounds included.
HEIGHTS = (40, 80)  # Pixels of a digit, bounds included; their logarithms are uniform.
MOST_DIGITS = 8
CLUTTER = (1, 4)  # Things that are no digits, bounds included.
SHADES = (150, 255)  # Of a thing, in each of RGB.
VISIBLE = 0.8  # Share of a digit that no later one hides.
PLACES = 30  # That are tried for a digit before it is left out.
INK = 0.5  # Share of full ink at the outline of a digit.
SOLID = 0.5  # Share of a pixel from which on a thing has it.
DOUBT = 0.25  # A pixel that a digit covers by more than this, and by less than the rest of it, is unlabelled.
CONTRAST, COLOURS = 90, 60  # Least distance to what is behind, of a colour in RGB; colours that are tried.
ORIGINAL = 8  # Pixels of a side of scikit-learn's digits.


class Digit(NamedTuple):
    """A digit of a scene: its class, and bool (H, W), where it covers half of a pixel or more and is seen."""

    digit: int
    visible: np.ndarray


class Scene(NamedTuple):
    """An image uint8 (H, W, 3), its annotation uint8 (H, W) as ADE20K numbers, and its digits."""

    image: np.ndarray
    annotation: np.ndarray
    digits: list[Digit]


@dataclasses.dataclass(frozen=True)
class DigitScenes:
    """The scenes of a split.

    Attributes:
      split: whose digits are shown.
      seed: of all that is random.
    """

    split: SplitName
    seed: int = 0

    def scene(self, index: int) -> Scene:
        """One of endlessly many."""
        generator = np.random.default_rng([self.seed, self.split == "test", index])
        height, width = (int(side) for side in generator.integers(*SIDES, 2, endpoint=True))
        drawn = _Drawn(texture(generator, height, width))
        for _ in range(generator.integers(*CLUTTER, endpoint=True)):
            drawn.add(clutter(generator, height, width), generator)
        for _ in range(generator.integers(1, MOST_DIGITS, endpoint=True)):
            self._add_digit(drawn, generator)
        return drawn.scene()

    def _add_digit(self, drawn: "_Drawn", generator: np.random.Generator) -> None:
        """Where a place is found that leaves enough of the others; else the scene has one digit less."""
        example = self._digits[int(generator.integers(len(self._digits)))]
        tall = round(np.exp(generator.uniform(*np.log(HEIGHTS))))
        shape = digit_shape(example["image"][..., 0], tall)
        height, width = drawn.size
        for _ in range(PLACES):
            top = int(generator.integers(height - shape.shape[0], endpoint=True))
            left = int(generator.integers(width - shape.shape[1], endpoint=True))
            cover = np.zeros(drawn.size)
            cover[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
            if drawn.leaves_enough(cover):
                drawn.add(cover, generator, int(example["label"]))
                return

    @once
    def _digits(self) -> DigitsSource:
        return DigitsSource(self.split, ORIGINAL)


def digit_shape(ink: np.ndarray, height: int) -> np.ndarray:
    """The share of each pixel that a digit covers, about `height` pixels tall, without margins.

    The outline is where the ink, scaled up smoothly, has `INK` of its full strength.

    Args:
      ink: uint8 (8, 8).
      height: in pixels.
    """
    rows, columns = np.nonzero(ink > INK * ink.max())
    inked = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    padded = Image.fromarray(np.pad(inked / ink.max(), 1).astype(np.float32))
    scale = height / inked.shape[0]
    size = (round(padded.width * scale), round(padded.height * scale))
    smooth = np.asarray(padded.resize(size, Image.Resampling.BICUBIC), np.float64)
    # The ink rises by about its whole strength within one of the original pixels.
    cover = np.clip(0.5 + (smooth - INK) * scale, 0, 1)
    rows, columns = np.nonzero(cover)
    return cover[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


class _Drawn:
    """A scene that is being drawn."""

    def __init__(self, picture: np.ndarray):
        self._picture, self.size = picture, picture.shape[:2]
        self._annotation = np.full(self.size, BACKGROUND, np.uint8)
        self._digits: list[Digit] = []
        self._whole: list[int] = []  # Pixels of each digit before anything hid some of them.

    def leaves_enough(self, cover: np.ndarray) -> bool:
        """Whether each digit would still be seen well enough."""
        seen = cover < SOLID
        return all(
            np.count_nonzero(d.visible & seen) >= VISIBLE * n
            for d, n in zip(self._digits, self._whole, strict=True)
        )

    def add(self, cover: np.ndarray, generator: np.random.Generator, digit: int | None = None) -> None:
        """Draws a digit, or clutter, over all else in a colour that can be seen."""
        down, across = generator.uniform(-40, 40, 2)
        shading = np.add.outer(
            down * np.linspace(-1, 1, self.size[0]), across * np.linspace(-1, 1, self.size[1])
        )
        colour = self._colour(cover, generator) + shading[..., None]
        self._picture += cover[..., None] * (np.clip(colour, 0, 255) - self._picture)
        solid = cover >= SOLID
        self._digits = [Digit(d.digit, d.visible & ~solid) for d in self._digits]
        value = BACKGROUND if digit is None else 2 + digit
        doubtful = (cover > DOUBT) & (cover < 1 - DOUBT) & (self._annotation != value)
        self._annotation[solid] = value
        self._annotation[doubtful] = UNLABELLED
        if digit is not None:
            self._digits.append(Digit(digit, solid))
            self._whole.append(int(np.count_nonzero(solid)))

    def _colour(self, cover: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The first of some random colours that differs from nearly all around, or the best of them."""
        rows, columns = np.nonzero(cover > 0)
        around = self._picture[rows.min() : rows.max() + 1 : 2, columns.min() : columns.max() + 1 : 2]
        colours = generator.uniform(*SHADES, (COLOURS, 3))
        distances = np.linalg.norm(around.reshape(-1, 1, 3) - colours, axis=-1)
        least = np.quantile(distances, 0.1, axis=0)
        return colours[np.argmax(least >= CONTRAST)] if least.max() >= CONTRAST else colours[least.argmax()]

    def scene(self) -> Scene:
        return Scene(np.round(self._picture).astype(np.uint8), self._annotation, self._digits)
