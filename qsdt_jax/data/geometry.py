"""Geometry as a value: drawn once for an example, then applied to its image, its boxes and its masks alike.

Coordinates are continuous: the pixel in row i and column j covers j..j + 1 across and i..i + 1 down.

    image        uint8 (H, W, C) with C 1 or 3; resampled
    masks        (..., H, W) of any type, labels of pixels or one mask for each object; the nearest pixel
    annotation   unsigned (..., H, W), the class of each pixel, see `dense.annotations`; the nearest pixel
    boxes        float (N, 4), the corners (x0, y0, x1, y1) in pixels, across before down

What comes in from outside is 0 in masks, ignored in an annotation, and in images black or the colour given.
Boxes stay as many: they are cut off where the frame ends, and have no area where nothing of them is left. Of
a turned box the upright box around it remains.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from PIL import Image

from qsdt_jax.data.dense.annotations import ignored
from qsdt_jax.data.images import resize, to_picture, to_pixels

Size = tuple[int, int]
"""(height, width) in pixels."""
Fill = int | tuple[int, ...]
"""A colour, 0..255."""


class Geometry(Protocol):
    """A map from one frame to another."""

    def apply_image(self, image: np.ndarray) -> np.ndarray: ...

    def apply_mask(self, mask: np.ndarray, outside: int = 0) -> np.ndarray:
        """The mask moved; `outside` is the value of what comes in from there."""
        ...

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray: ...


def moved(example: Mapping[str, Any], geometry: Geometry) -> dict[str, Any]:
    """The example with what the head of this file names moved, as far as it has it; the rest as it is."""
    apply = {
        "image": geometry.apply_image,
        "masks": geometry.apply_mask,
        "annotation": lambda classes: geometry.apply_mask(classes, ignored(classes.dtype)),
        "boxes": geometry.apply_boxes,
    }
    return {
        name: apply[name](np.asarray(value)) if name in apply else value for name, value in example.items()
    }


@dataclasses.dataclass(frozen=True)
class Steps:
    """One geometry after the other; of none, nothing moves."""

    steps: tuple[Geometry, ...] = ()

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        for step in self.steps:
            image = step.apply_image(image)
        return image

    def apply_mask(self, mask: np.ndarray, outside: int = 0) -> np.ndarray:
        for step in self.steps:
            mask = step.apply_mask(mask, outside)
        return mask

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        for step in self.steps:
            boxes = step.apply_boxes(boxes)
        return boxes


@dataclasses.dataclass(frozen=True)
class Crop:
    """A part of the frame, which lies inside of it; in pixels."""

    top: int
    left: int
    height: int
    width: int

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return image[self._rows, self._columns]

    def apply_mask(self, mask: np.ndarray, outside: int = 0) -> np.ndarray:
        return mask[..., self._rows, self._columns]

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        return _cut_off(_placed(boxes, (1, 1), (-self.left, -self.top)), (self.height, self.width))

    @property
    def _rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def _columns(self) -> slice:
        return slice(self.left, self.left + self.width)


@dataclasses.dataclass(frozen=True)
class Resize:
    """The whole frame at another size; images are resampled with antialiasing."""

    before: Size
    after: Size
    resampling: Image.Resampling = Image.Resampling.BICUBIC

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return resize(image, self.after, self.resampling)

    def apply_mask(self, mask: np.ndarray, outside: int = 0) -> np.ndarray:
        rows, columns = (
            ((2 * np.arange(new) + 1) * old) // (2 * new)  # Where the centre of a new pixel lies.
            for old, new in zip(self.before, self.after, strict=True)
        )
        return mask[..., rows[:, None], columns]

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        down, across = (new / old for old, new in zip(self.before, self.after, strict=True))
        return _placed(boxes, (across, down), (0, 0))


@dataclasses.dataclass(frozen=True)
class Flip:
    """Left and right of a frame of this width change places."""

    width: int

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return image[:, ::-1]

    def apply_mask(self, mask: np.ndarray, outside: int = 0) -> np.ndarray:
        return mask[..., ::-1]

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        return _placed(boxes, (-1, 1), (self.width, 0))[..., [2, 1, 0, 3]]


@dataclasses.dataclass(frozen=True)
class Pad:
    """Margins around the frame, in pixels."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return np.pad(image, (*self._margins, (0, 0)))

    def apply_mask(self, mask: np.ndarray, outside: int = 0) -> np.ndarray:
        margins = (*[(0, 0)] * (mask.ndim - 2), *self._margins)
        return np.pad(mask, margins, constant_values=outside)

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        return _placed(boxes, (1, 1), (self.left, self.top))

    @property
    def _margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.top, self.bottom), (self.left, self.right)


@dataclasses.dataclass(frozen=True)
class Affine:
    """An affine map of the plane within a frame.

    Attributes:
      size: of the frame.
      source: (a, b, c, d, e, f), from a place (x, y) in the new frame to where its content stood in the old
        one, (a x + b y + c, d x + e y + f).
      resampling: of images.
      fill: colour of what comes in from outside, in images; one level for grey, three for RGB, 0 for black.
    """

    size: Size
    source: tuple[float, float, float, float, float, float]
    resampling: Image.Resampling = Image.Resampling.BILINEAR
    fill: Fill = 0

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        picture = to_picture(image)
        return to_pixels(
            picture.transform(
                picture.size, Image.Transform.AFFINE, self.source, self.resampling, fillcolor=self.fill
            )
        )

    def apply_mask(self, mask: np.ndarray, outside: int = 0) -> np.ndarray:
        a, b, c, d, e, f = self.source
        height, width = self.size
        y, x = np.mgrid[:height, :width] + 0.5  # The centres of the pixels.
        column = np.floor(a * x + b * y + c).astype(np.int64)
        row = np.floor(d * x + e * y + f).astype(np.int64)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        found = mask[..., np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        return np.where(inside, found, np.full_like(found, outside))

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        a, b, c, d, e, f = self.source
        forward = np.linalg.inv([[a, b], [d, e]])
        corners = boxes[..., [[0, 1], [2, 1], [0, 3], [2, 3]]]  # (N, 4, 2)
        turned = (corners - np.array([c, f])) @ forward.T
        around = np.concatenate([turned.min(-2), turned.max(-2)], axis=-1)
        return _cut_off(around.astype(boxes.dtype), self.size)


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of the frame at another size, mirrored or not; images are resampled once, with antialiasing.

    Attributes:
      before: size of the frame.
      part: (x0, y0, x1, y1), a box within the frame; not of whole pixels, in general.
      after: size of the result.
      mirrored: left and right then change places.
    """

    before: Size
    part: tuple[float, float, float, float]
    after: Size
    mirrored: bool = False

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        if self.part != (0, 0, *self.before[::-1]) or self.before != self.after:
            image = resize(image, self.after, Image.Resampling.BILINEAR, self.part)
        return self._turned(image, 1)

    def apply_mask(self, mask: np.ndarray, outside: int = 0) -> np.ndarray:
        x0, y0, x1, y1 = self.part
        rows, columns = (
            np.clip(start + (np.arange(new) + 0.5) * (stop - start) / new, 0, old - 1).astype(np.int64)
            for start, stop, new, old in zip((y0, x0), (y1, x1), self.after, self.before, strict=True)
        )
        return self._turned(mask[..., rows[:, None], columns], -1)

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        across, down = self._scale
        x0, y0, _, _ = self.part
        placed = _placed(boxes.astype(np.float64), (across, down), (-x0 * across, -y0 * down))
        if self.mirrored:
            placed = Flip(self.after[1]).apply_boxes(placed)
        return _cut_off(placed, self.after).astype(boxes.dtype)

    def original(self, boxes: np.ndarray) -> np.ndarray:
        """Where boxes of the result lie in the frame before, float64 (N, 4)."""
        across, down = self._scale
        x0, y0, _, _ = self.part
        boxes = boxes.astype(np.float64)
        if self.mirrored:
            boxes = Flip(self.after[1]).apply_boxes(boxes)
        return _placed(boxes, (1 / across, 1 / down), (x0, y0))

    @property
    def _scale(self) -> tuple[float, float]:
        """(across, down)."""
        x0, y0, x1, y1 = self.part
        return self.after[1] / (x1 - x0), self.after[0] / (y1 - y0)

    def _turned(self, values: np.ndarray, axis: int) -> np.ndarray:
        return np.flip(values, axis) if self.mirrored else values


def resize_and_crop(before: Size, size: Size, crop_ratio: float = 1.0) -> Geometry:
    """Scales the frame until it just covers another one, and cuts out the middle.

    Size 224 at a ratio of 0.875 is the usual evaluation on ImageNet: the short side becomes 256. Sizes and
    offsets are rounded as torchvision does, which timm uses for square sizes.

    Args:
      before: of the image.
      size: of the result.
      crop_ratio: size / covered frame, in (0, 1]; that frame is rounded down.
    """
    height, width = before
    frame_height, frame_width = (math.floor(side / crop_ratio) for side in size)
    if height * frame_width <= width * frame_height:  # Flatter than the frame.
        scaled = frame_height, width * frame_height // height
    else:
        scaled = height * frame_width // width, frame_width
    crop = Crop(round((scaled[0] - size[0]) / 2), round((scaled[1] - size[1]) / 2), *size)
    return crop if scaled == before else Steps((Resize(before, scaled), crop))


def _placed(boxes: np.ndarray, scale: tuple[float, float], shift: tuple[float, float]) -> np.ndarray:
    """Boxes scaled and then shifted, (across, down)."""
    return (boxes * np.tile(scale, 2) + np.tile(shift, 2)).astype(boxes.dtype)


def _cut_off(boxes: np.ndarray, size: Size) -> np.ndarray:
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))
