"""Images with objects: how they become what a network of detection takes.

An example is {"image": uint8 (H, W, C), "index": int, "boxes": float32 (N, 4), "category": int32 (N,),
"masks": bool (N, H, W)}, boxes as (x0, y0, x1, y1) in pixels. Image and boxes go through one geometry. Of a
mask the share of each cell of the object's own box is kept, see `coverage`, taken from the mask at its own
size.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from absl import logging

from qsdt_jax.data.dense.buckets import Buckets, scaled
from qsdt_jax.data.dense.coverage import CELLS, coverage
from qsdt_jax.data.dense.framing import padded, resized, size_of_image
from qsdt_jax.data.geometry import Size, Window, moved
from qsdt_jax.data.images import Normalization
from qsdt_jax.data.sources import Example
from qsdt_jax.data.tally import Tally
from qsdt_jax.errors import UserError

OWN_SIZE = "own_size"
NO_OBJECT = -1
SMALLEST_SIDE = 1.0  # Pixels of a box that stays.

ObjectsAugmentation = Literal["none", "resize", "resize_flip", "resize_or_crop", "resize_or_crop_flip"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionPreprocess:
    """From an image with its objects to the bytes of a network input.

    The sides of an image keep their ratio. Images are resampled bilinearly with antialiasing, and once.

    Attributes:
      size: (height, width) of a training input in pixels.
      mean, std: normalisation of pixels in 0..1, one value a channel or one for all.
      buckets: how large images are shown, and the sizes of the arrays of an evaluation.
      augmentation: in training. "resize": the short side is one of `short_sides`. "resize_or_crop": that, or
        half of the time a part of the image is shown so, which is cut out as follows. "..._flip": the same,
        mirrored left to right half of the time. "none": shown as in evaluation.
      portrait: whether images that are taller than wide take an array of the transposed size.
      short_sides: in pixels, of which one is drawn.
      crop_short_sides: likewise, the size of the image when a part is cut out.
      crop_sides: the least and the most that height and width of that part are, as far as the image goes.
      objects: G, of which there is room. Of more, the largest are kept; log lines count such images.
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    buckets: Buckets
    augmentation: ObjectsAugmentation = "none"
    portrait: bool = False
    short_sides: tuple[int, ...] = ()
    crop_short_sides: tuple[int, ...] = ()
    crop_sides: tuple[int, int] = (1, 1)
    objects: int = 100
    _crowded: Tally = dataclasses.field(default_factory=Tally, init=False, repr=False, compare=False)

    @property
    def normalization(self) -> Normalization:
        """What makes inputs of the bytes, on the device."""
        return Normalization(self.mean, self.std)

    def train(self, example: Example, generator: np.random.Generator) -> Example:
        """The example as the generator gives it.

        Objects of which less than a pixel is left along a side are dropped.

        Returns:
          "image" uint8 (h, w, C), "size" int32 (2,), "boxes" float32 (G, 4) in pixels of the array,
          "category" int32 (G,), -1 and a box of zeros where there is no object, "masks" uint8 (G, 56, 56),
          and the rest as it was.

        Raises:
          UserError: something is missing or does not fit the rest.
        """
        own = _checked_size(example)
        size = (self.size[1], self.size[0]) if self.portrait and own[0] > own[1] else self.size
        window = self._window(own, size, generator)
        masks = example["masks"]
        example = moved({name: value for name, value in example.items() if name != "masks"}, window)
        kept = self._kept(example)
        boxes, number = example["boxes"][kept], len(kept)
        originals = window.original(boxes)
        padding = ((0, self.objects - number), (0, 0))
        cells = np.zeros((self.objects, CELLS, CELLS), np.uint8)
        for place, (index, box) in enumerate(zip(kept, originals, strict=True)):
            share = coverage(masks[index], box)
            cells[place] = share[:, ::-1] if window.mirrored else share
        return {
            **padded(example, size),
            "boxes": np.pad(boxes, padding),
            "category": np.pad(example["category"][kept], padding[0], constant_values=NO_OBJECT),
            "masks": cells,
        }

    def evaluate(self, example: Example) -> Example:
        """The whole image in its bucket, without its objects; nothing random.

        Returns:
          "image" uint8 (bh, bw, C), "size" and "own_size" int32 (2,), and the rest as it was.

        Raises:
          UserError: as `train`, and where no bucket holds the image.
        """
        _checked_size(example)
        rest = {name: example[name] for name in example if name not in ("boxes", "category", "masks")}
        return {**rest, **self.view(example["image"])}

    def view(self, image: np.ndarray) -> Example:
        """An image as it is evaluated: "image", "size" and "own_size"."""
        own = size_of_image({"image": image})
        shown = resized(own, self.buckets.shown(own)).apply_image(np.asarray(image))
        return {**padded({"image": shown}, self.buckets.of(own).image), OWN_SIZE: np.array(own, np.int32)}

    def _window(self, own: Size, size: Size, generator: np.random.Generator) -> Window:
        """Which part of an image is shown how large, in an array of a size."""
        height, width = own
        if self.augmentation == "none":
            return Window(own, (0, 0, width, height), self._fitted(own, size, self.buckets.short_side))
        mirrored = self.augmentation.endswith("flip") and generator.random() < 0.5
        part, sides = (0.0, 0.0, float(width), float(height)), own
        if self.augmentation.startswith("resize_or_crop") and generator.random() < 0.5:
            frame = scaled(own, int(generator.choice(self.crop_short_sides)), math.inf)
            top, bottom = self._drawn_part(frame[0], generator)
            left, right = self._drawn_part(frame[1], generator)
            across, down = width / frame[1], height / frame[0]
            part, sides = (
                (left * across, top * down, right * across, bottom * down),
                (bottom - top, right - left),
            )
        short_side = int(generator.choice(self.short_sides))
        return Window(own, part, self._fitted(sides, size, short_side), mirrored)

    def _drawn_part(self, side: int, generator: np.random.Generator) -> tuple[int, int]:
        """The beginning and the end of a part of a side."""
        least, most = (min(side, bound) for bound in self.crop_sides)
        length = int(generator.integers(least, most, endpoint=True))
        start = int(generator.integers(side - length, endpoint=True))
        return start, start + length

    def _fitted(self, sides: Size, size: Size, short_side: int) -> Size:
        """The size at which an image is shown, which its array holds."""
        return scaled(sides, short_side, self.buckets.long_side, within=size)

    def _kept(self, example: Example) -> np.ndarray:
        """The places of the objects that are learnt, in ascending order."""
        sides = example["boxes"][:, 2:] - example["boxes"][:, :2]
        seen = np.flatnonzero((sides >= SMALLEST_SIDE).all(1))
        if len(seen) <= self.objects:
            return seen
        if number := self._crowded.add(int(example["index"])):
            logging.warning(
                "image %d has %d objects, of which the %d largest are learnt; %d such image%s so far",
                example["index"],
                len(seen),
                self.objects,
                number,
                "s" * (number > 1),
            )
        largest = np.argsort(-sides[seen].prod(1), kind="stable")[: self.objects]
        return np.sort(seen[largest])


def _checked_size(example: Example) -> Size:
    """Of an image with objects."""
    expected = ("image", "index", "boxes", "category", "masks")
    if not set(expected) <= example.keys():
        raise UserError(f"an example has {', '.join(sorted(example))}; expected {', '.join(expected)}")
    size = size_of_image(example)
    boxes, category, masks = (np.asarray(example[name]) for name in expected[2:])
    number = len(boxes) if boxes.ndim else 0
    for name, array, dtype, shape in (
        ("boxes", boxes, np.float32, (number, 4)),
        ("category", category, np.int32, (number,)),
        ("masks", masks, bool, (number, *size)),
    ):
        if array.dtype != dtype or array.shape != shape:
            raise UserError(
                f"{name} of an example are {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}"
            )
    return size
