"""Images with the class of each pixel: how they become what a network of segmentation takes.

An example is {"image": uint8 (H, W, C), "annotation": (H, W)}, see `annotations`. "size" says how much of an
array is image, (height, width) from the top left on; the rest is padding, 0 in the image and ignored in the
annotation. Image and annotation go through one geometry.
"""

import dataclasses
from typing import Literal

import numpy as np

from qsdt_jax.data.augment import TRIES, draw_flip
from qsdt_jax.data.dense.annotations import labelled_counts
from qsdt_jax.data.dense.buckets import Buckets, scaled
from qsdt_jax.data.dense.framing import padded, padding, resized, size_of_image
from qsdt_jax.data.dense.photometric import draw_photometric
from qsdt_jax.data.geometry import Crop, Size, moved
from qsdt_jax.data.images import Normalization
from qsdt_jax.data.sources import Example
from qsdt_jax.errors import UserError

ANNOTATION_SIZE = "annotation_size"

AnnotatedAugmentation = Literal["none", "resize_crop", "resize_crop_flip"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationPreprocess:
    """From an image with its annotation to the bytes of a network input.

    Images are resampled bilinearly with antialiasing; of an annotation the nearest pixel is taken.

    Attributes:
      size: (height, width) of a training input in pixels.
      mean, std: normalisation of pixels in 0..1, one value a channel or one for all.
      buckets: how large images are shown, and the sizes of the arrays of an evaluation.
      augmentation: in training. "resize_crop_flip": scaled as in evaluation and times a random ratio, a
        random part of it, mirrored left to right half of the time. "resize_crop": the same, never mirrored.
        "none": scaled as in evaluation, its middle.
      resize_ratio: bounds of that ratio.
      largest_share: a part is drawn anew, up to ten times, where a class has this share or more of its
        labelled pixels or all of them; 1 for any part.
      photometric: whether colours are distorted in training, see `photometric`.
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    buckets: Buckets
    augmentation: AnnotatedAugmentation = "none"
    resize_ratio: tuple[float, float] = (0.5, 2.0)
    largest_share: float = 0.75
    photometric: bool = False

    @property
    def normalization(self) -> Normalization:
        """What makes inputs of the bytes, on the device."""
        return Normalization(self.mean, self.std)

    def train(self, example: Example, generator: np.random.Generator) -> Example:
        """The example as the generator gives it.

        Returns:
          "image" uint8 (h, w, C), "annotation" (h, w), "size" int32 (2,), and the rest as it was.

        Raises:
          UserError: image and annotation are missing or do not fit each other.
        """
        own = _own_size(example)
        if self.augmentation == "none":
            example = moved(example, resized(own, self.buckets.shown(own)))
            example = moved(example, _centred(size_of_image(example), self.size))
        else:
            low, high = self.resize_ratio
            ratio = float(generator.uniform(low, high))
            size = scaled(own, self.buckets.short_side, self.buckets.long_side, ratio)
            example = moved(example, resized(own, size))
            example = moved(example, self._drawn_crop(example["annotation"], generator))
            if self.augmentation == "resize_crop_flip":
                example = moved(example, draw_flip(generator, size_of_image(example)[1]))
        if self.photometric:
            example |= {"image": draw_photometric(generator).apply(example["image"])}
        return padded(example, self.size)

    def evaluate(self, example: Example) -> Example:
        """The whole image in its bucket; nothing random; raises as `train`, and where no bucket holds it.

        Returns:
          "image" uint8 (bh, bw, C), "size" int32 (2,), "annotation" at its own size in an array (ah, aw),
          "annotation_size" int32 (2,), and the rest as it was.
        """
        own = _own_size(example)
        annotation = {"annotation": np.asarray(example["annotation"])}
        annotation = moved(annotation, padding(own, self.buckets.of(own).annotation))
        return {
            **example,
            **self.view(example["image"]),
            **annotation,
            ANNOTATION_SIZE: np.array(own, np.int32),
        }

    def view(self, image: np.ndarray) -> Example:
        """An image as it is evaluated, without an annotation: "image" and "size"."""
        own = size_of_image({"image": image})
        shown = resized(own, self.buckets.shown(own)).apply_image(np.asarray(image))
        return padded({"image": shown}, self.buckets.of(own).image)

    def _drawn_crop(self, annotation: np.ndarray, generator: np.random.Generator) -> Crop:
        """Of `size`, or as far as the image goes."""
        sides = tuple(zip(annotation.shape, self.size, strict=True))
        height, width = (min(side, most) for side, most in sides)
        for _ in range(TRIES):
            top, left = (int(generator.integers(max(0, side - most) + 1)) for side, most in sides)
            crop = Crop(top, left, height, width)
            if self.largest_share == 1 or annotation.shape == (height, width):
                break
            counts = labelled_counts(crop.apply_mask(annotation))
            if 0 < counts.max(initial=0) < self.largest_share * counts.sum():
                break
        return crop


def _own_size(example: Example) -> Size:
    """Of an annotated image."""
    if not {"image", "annotation"} <= example.keys():
        found = ", ".join(sorted(example))
        raise UserError(f"an example has {found}; expected an image and its annotation")
    size, annotation = size_of_image(example), np.asarray(example["annotation"])
    if annotation.dtype.kind != "u" or annotation.shape != size:
        raise UserError(
            f"an annotation is {annotation.dtype} {annotation.shape}; expected uint8 or uint16 {size}, "
            "the size of its image"
        )
    return size


def _centred(before: Size, size: Size) -> Crop:
    """The middle, of `size` or as far as the image goes."""
    height, width = (min(sides) for sides in zip(before, size, strict=True))
    return Crop((before[0] - height) // 2, (before[1] - width) // 2, height, width)
