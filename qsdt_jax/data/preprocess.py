"""How an example becomes an input: what every preprocessing has, and that of images with a label."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from qsdt_jax.data.augment import draw_affine, draw_erasing, draw_flip, draw_resized_crop
from qsdt_jax.data.dense.buckets import Buckets
from qsdt_jax.data.geometry import Geometry, Size, Steps, moved, resize_and_crop
from qsdt_jax.data.images import Normalization
from qsdt_jax.data.randaugment import rand_augment
from qsdt_jax.data.sources import Example
from qsdt_jax.errors import UserError

Augmentation = Literal["none", "affine", "crop_flip"]


class Preprocessing(Protocol):
    """From examples of a source to what a batch holds of them."""

    @property
    def size(self) -> Size:
        """(height, width) of a training input in pixels."""
        ...

    @property
    def normalization(self) -> Normalization | None:
        """What makes inputs of bytes, on the device; None where the images are inputs already."""
        ...

    @property
    def buckets(self) -> Buckets | None:
        """The sizes of the arrays of an evaluation; None where all have one."""
        ...

    def train(self, example: Example, generator: np.random.Generator) -> Example: ...

    def evaluate(self, example: Example) -> Example: ...


@runtime_checkable
class ImagePreprocessing(Preprocessing, Protocol):
    """That of images, which a network can be shown without anything to learn from."""

    def view(self, image: np.ndarray) -> Example:
        """uint8 (H, W, C) of any size -> what the batches of an evaluation hold of an image, as bytes.

        Raises:
          UserError: there is no place for an image of this size.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a decoded image to the bytes of a network input.

    In training, in timm's order: geometry, RandAugment, and on the device normalisation and random erasing,
    see `inputs`. Boxes and masks of an example go where its image goes, also in RandAugment, see `geometry`.

    Attributes:
      size: (height, width) of the input in pixels.
      mean, std: normalisation of pixels in 0..1, one value a channel or one for all.
      augmentation: the geometry. "none"; "affine", small random affine maps, for digits; "crop_flip", random
        resized crop and horizontal flip, for natural images.
      crop_area: bounds of the crop's share of the image's area.
      crop_aspect: bounds of the crop's width / height.
      randaugment_magnitude: mean magnitude of RandAugment operations, 0..10; 0 for none.
      randaugment_std: standard deviation of the magnitude.
      randaugment_operations: drawn for each image, see `randaugment.sample_operations`.
      erase_probability: that a box of the input is overwritten with noise.
      evaluation_crop_ratio: share of height and width that is left of an image that covers it, in evaluation.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = "none"
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    randaugment_magnitude: float = 0.0
    randaugment_std: float = 0.5
    randaugment_operations: int = 2
    erase_probability: float = 0.0
    evaluation_crop_ratio: float = 1.0

    @property
    def buckets(self) -> None:
        """All inputs have one size."""

    @property
    def normalization(self) -> Normalization:
        """What makes inputs of the bytes, on the device."""
        return Normalization(self.mean, self.std)

    def train(self, example: Example, generator: np.random.Generator) -> Example:
        """The example with "image" as uint8 (H, W, C), augmented as the generator gives it.

        With random erasing it also says what is to be erased, see `augment.draw_erasing`.

        Raises:
          UserError: "image" is not uint8 (H, W, C).
        """
        example = moved(example, self._geometry(_size(example), generator))
        if self.randaugment_magnitude:
            example = rand_augment(
                example,
                generator,
                fill=self._fill(example["image"].shape[-1]),
                magnitude=self.randaugment_magnitude,
                magnitude_std=self.randaugment_std,
                num_operations=self.randaugment_operations,
            )
        if self.erase_probability:
            example |= draw_erasing(generator, self.size, probability=self.erase_probability)
        return example

    def evaluate(self, example: Example) -> Example:
        """The example with "image" as uint8 (H, W, C), nothing random; raises as `train`."""
        return moved(example, self._evaluated(_size(example)))

    def view(self, image: np.ndarray) -> Example:
        """{"image": uint8 (H, W, C)}, the part of an image that is evaluated, at the size of the input."""
        return self.evaluate({"image": image})

    def _geometry(self, before: Size, generator: np.random.Generator) -> Geometry:
        """Of a training image of that size."""
        match self.augmentation:
            case "none":
                return resize_and_crop(before, self.size)
            case "affine":
                return Steps((resize_and_crop(before, self.size), draw_affine(generator, self.size)))
            case "crop_flip":
                crop = draw_resized_crop(
                    generator, before, self.size, area=self.crop_area, aspect=self.crop_aspect
                )
                return Steps((crop, draw_flip(generator, self.size[1])))

    def _evaluated(self, before: Size) -> Geometry:
        return resize_and_crop(before, self.size, self.evaluation_crop_ratio)

    def _fill(self, channels: int) -> tuple[int, ...]:
        """The mean colour in whole levels."""
        return tuple(min(255, round(255 * m)) for m in np.broadcast_to(self.mean, channels).tolist())


def _size(example: Example) -> Size:
    """Of its image; raises UserError where that is not of bytes."""
    image = np.asarray(example["image"])
    if image.dtype != np.uint8 or image.ndim != 3:
        raise UserError(f"an image is {image.dtype} {image.shape}; expected uint8 (H, W, C)")
    height, width, _ = image.shape
    return height, width
