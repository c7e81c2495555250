"""Batches from a source: order and augmentation are pure functions of (seed, position)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Literal

import grain
import numpy as np

from qsdt_jax.data.augment import random_affine, random_erasing, random_flip, random_resized_crop
from qsdt_jax.data.images import normalize, resize_and_crop
from qsdt_jax.data.randaugment import rand_augment
from qsdt_jax.data.sources import Example, Source

Augmentation = Literal["none", "affine", "crop_flip"]
HostBatch = dict[str, np.ndarray]
READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a decoded image to a network input.

    In training, in timm's order: geometry, RandAugment, normalisation, random erasing.

    Attributes:
      size: (height, width) of the input in pixels.
      mean, std: normalisation of pixels in 0..1, one value a channel or one for all.
      augmentation: the geometry. "none"; "affine", small random affine maps, for digits; "crop_flip", random
        resized crop and horizontal flip, for natural images.
      crop_area: bounds of the crop's share of the image's area.
      crop_aspect: bounds of the crop's width / height.
      randaugment_magnitude: mean magnitude of two RandAugment operations, 0..10; 0 for none.
      randaugment_std: standard deviation of the magnitude.
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
    erase_probability: float = 0.0
    evaluation_crop_ratio: float = 1.0

    def train(self, example: Example, generator: np.random.Generator) -> Example:
        """{"image": float32 (H, W, C), "label"} with random augmentation, as the generator gives it."""
        image = self._moved(np.asarray(example["image"]), generator)
        if self.randaugment_magnitude:
            image = rand_augment(
                image,
                generator,
                fill=self._fill(image.shape[-1]),
                magnitude=self.randaugment_magnitude,
                magnitude_std=self.randaugment_std,
            )
        image = normalize(image, self.mean, self.std)
        if self.erase_probability:
            image = random_erasing(image, generator, probability=self.erase_probability)
        return {"image": image, "label": example["label"]}

    def evaluate(self, example: Example) -> Example:
        """{"image": float32 (H, W, C), "label"}, nothing random."""
        image = self.evaluation_view(np.asarray(example["image"]))
        return {"image": normalize(image, self.mean, self.std), "label": example["label"]}

    def evaluation_view(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C), the part of an image that is evaluated, at the size of the input."""
        return resize_and_crop(image, self.size, self.evaluation_crop_ratio)

    def _moved(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        match self.augmentation:
            case "none":
                return resize_and_crop(image, self.size)
            case "affine":
                return random_affine(resize_and_crop(image, self.size), generator)
            case "crop_flip":
                crop = random_resized_crop(
                    image, generator, self.size, area=self.crop_area, aspect=self.crop_aspect
                )
                return random_flip(crop, generator)

    def _fill(self, channels: int) -> tuple[int, ...]:
        """The mean colour in whole levels."""
        return tuple(min(255, round(255 * m)) for m in np.broadcast_to(self.mean, channels).tolist())


def training_batches(
    source: Source,
    preprocess: Callable[[Example, np.random.Generator], Example],
    *,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    workers: int = 0,
) -> Iterator[HostBatch]:
    """Endless shuffled batches from step `first_step` on.

    One pass through the data is shuffled after the other, so every example comes once an epoch, and batch s
    holds examples s * B .. (s + 1) * B - 1 of that stream, whatever happened before: the position of a
    resumed run is its step.

    Args:
      source: the examples.
      preprocess: of one example, with a generator that depends on (seed, position) only.
      seed: of order and augmentation.
      batch_size: B.
      first_step: number of batches to skip, at no cost.
      workers: processes that read and augment; 0 for threads of this process.

    Yields:
      {"image": float32 (B, H, W, C), "label": int32 (B,)}.
    """
    dataset = (
        grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(preprocess)
        .batch(batch_size)
    )
    iterable = dataset[first_step:].to_iter_dataset(READ_AHEAD)
    if workers:
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return map(_as_batch, iter(iterable))


def evaluation_batches(
    source: Source, preprocess: Callable[[Example], Example], *, batch_size: int
) -> Iterator[HostBatch]:
    """Every example once, in order; the last batch is filled up with rows of mask 0.

    Yields:
      {"image": float32 (B, H, W, C), "label": int32 (B,), "mask": int32 (B,)}.
    """
    dataset = (
        grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
        .map(preprocess)
        .batch(batch_size, drop_remainder=False)
        .map(functools.partial(_pad, batch_size=batch_size))
    )
    return map(_as_batch, iter(dataset.to_iter_dataset(READ_AHEAD)))


def _as_batch(batch) -> HostBatch:
    return {**batch, "label": np.asarray(batch["label"], np.int32)}


def _pad(batch: HostBatch, batch_size: int) -> HostBatch:
    rows = len(batch["label"])
    missing = batch_size - rows
    padded = {
        name: np.pad(np.asarray(x), [(0, missing)] + [(0, 0)] * (np.ndim(x) - 1)) for name, x in batch.items()
    }
    return {**padded, "mask": (np.arange(batch_size) < rows).astype(np.int32)}
