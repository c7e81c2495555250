"""Batches from a source: order and augmentation are pure functions of (seed, position).

An example is a dict. Every key that a preprocess returns reaches the batch, where its values stand one above
the other with the dtype and the shape that they have, see `arrays`. A key has one shape in all examples of
training, and in evaluation in all of a group.
"""

import dataclasses
import functools
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import grain
import numpy as np

from qsdt_jax.cpus import usable_cpus
from qsdt_jax.data.arrays import as_arrays, has_64_bits
from qsdt_jax.data.augment import draw_affine, draw_erasing, draw_flip, draw_resized_crop
from qsdt_jax.data.buckets import Buckets
from qsdt_jax.data.geometry import Geometry, Size, Steps, moved, resize_and_crop
from qsdt_jax.data.images import Normalization
from qsdt_jax.data.plan import Plan
from qsdt_jax.data.randaugment import rand_augment
from qsdt_jax.data.sources import Example, Source
from qsdt_jax.errors import UserError

Augmentation = Literal["none", "affine", "crop_flip"]
HostBatch = dict[str, np.ndarray]
BATCHES_AHEAD = 2
PART = 8  # Most examples that a thread or a process reads in one go.


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
            )
        if self.erase_probability:
            example |= draw_erasing(generator, self.size, probability=self.erase_probability)
        return example

    def evaluate(self, example: Example) -> Example:
        """The example with "image" as uint8 (H, W, C), nothing random; raises as `train`."""
        return moved(example, self._evaluated(_size(example)))

    def evaluation_view(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C), the part of an image that is evaluated, at the size of the input."""
        return self._evaluated(_size({"image": image})).apply_image(image)

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


def training_batches(
    source: Source,
    preprocess: Callable[[Example, np.random.Generator], Example],
    *,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    workers: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[HostBatch]:
    """Endless shuffled batches from step `first_step` on.

    One pass through the data is shuffled after the other, so every example comes once an epoch, and batch s
    holds examples s * B .. (s + 1) * B - 1 of that stream, whatever happened before: the position of a
    resumed run is its step.

    Args:
      source: the examples.
      preprocess: from an example to what the batch holds of it, with a generator that depends on
        (seed, position) only.
      seed: of order and augmentation.
      batch_size: B.
      first_step: number of batches to skip, at no cost.
      workers: processes that read and augment; 0 for as many threads of this process as there are cores, -1
        for as many processes.
      rows: positions in each batch that are read, in this order; None for all. What they hold does not depend
        on what else is read.

    Yields:
      Each key of the preprocess with B rows, or as many as asked for, e.g. {"image": uint8 (B, H, W, C),
      "label": int32 (B,)}.
    """
    dataset = (
        grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(preprocess)
        .map(functools.partial(as_arrays, wide=has_64_bits()))
    )
    if rows is not None:
        chosen: Any = _ChosenRows(dataset, batch_size, rows)
        dataset, batch_size = grain.MapDataset.source(chosen), len(rows)
    return _batches(dataset, batch_size, first_step=first_step, workers=workers)


def evaluation_batches(
    source: Source,
    preprocess: Callable[[Example], Example],
    *,
    batch_size: int,
    groups: Sequence[Sequence[int]] | None = None,
    workers: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[HostBatch]:
    """Every example once, group by group in order; the last batch of each is filled up with rows of mask 0.

    Args:
      source: the examples.
      preprocess: from an example to what the batch holds of it; the key "mask" is taken.
      batch_size: B.
      groups: indices of the examples, group by group, see `plan.Plan`; None for all in one.
      workers: as for training.
      rows: positions in each batch that are read, in this order; None for all.

    Yields:
      Each key of the preprocess, and "mask" int32 (B,), with B rows, or as many as asked for. All of a row of
      mask 0 is 0.
    """
    dataset = (
        grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
        .map(preprocess)
        .map(functools.partial(as_arrays, wide=has_64_bits()))
    )
    plan = Plan((range(len(source)),) if groups is None else tuple(groups), batch_size)
    chosen = range(batch_size) if rows is None else rows
    planned: Any = _PlannedRows(dataset, plan, chosen)
    return _batches(grain.MapDataset.source(planned), len(chosen), workers=workers)


def _batches(
    examples: grain.MapDataset, batch_size: int, *, first_step: int = 0, workers: int = 0
) -> Iterator[HostBatch]:
    """Batches of consecutive examples, about `BATCHES_AHEAD` of which are read ahead.

    They are read in parts: many threads or processes then share one batch, and a batch can be large, while
    the cost of handing one example over is not small beside that of reading a small one.
    """
    size = math.gcd(batch_size, PART)
    parts = batch_size // size
    # Nothing remains, but without drop_remainder grain takes an endless length for a float.
    dataset = examples.batch(size, drop_remainder=True)[first_step * parts :]
    workers = usable_cpus() if workers == -1 else workers
    if workers:
        each = -(-BATCHES_AHEAD * parts // workers)
        iterable = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
        iterable = iterable.mp_prefetch(options, worker_init_fn=_end_with_the_run)
    else:
        cores = usable_cpus()
        ahead = max(BATCHES_AHEAD * parts, cores)
        iterable = dataset.to_iter_dataset(grain.ReadOptions(num_threads=cores, prefetch_buffer_size=ahead))
    return _with_worker_errors_explained(iter(iterable.batch(parts, batch_fn=_joined)), workers)


def _end_with_the_run(worker: int, workers: int) -> None:
    """In a process that reads: it ends with the one that started it, also where that is killed."""
    del worker, workers
    run = multiprocessing.parent_process()
    assert run is not None

    def wait() -> None:
        run.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _with_worker_errors_explained(batches: Iterator[HostBatch], workers: int) -> Iterator[HostBatch]:
    """The batches; the end of a process that reads them is told in one line."""
    try:
        yield from batches
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            f"one of the {workers} processes that read the data has ended ({str(error).split('. ')[0]}); "
            "fewer of them take less memory"
        ) from None


def _joined(parts: Sequence[HostBatch]) -> HostBatch:
    """One batch of its parts."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclasses.dataclass(frozen=True)
class _ChosenRows:
    """The examples at some positions of each batch, one by one."""

    examples: grain.MapDataset
    batch_size: int
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.examples) // self.batch_size * len(self.rows)

    def __getitem__(self, index: int) -> Example:
        batch, row = divmod(index, len(self.rows))
        return self.examples[batch * self.batch_size + self.rows[row]]


@dataclasses.dataclass(frozen=True)
class _PlannedRows:
    """The examples at some positions of each batch of a plan, with "mask" 1; zeros of mask 0 fill it up."""

    examples: grain.MapDataset
    plan: Plan
    rows: Sequence[int]

    def __len__(self) -> int:
        return self.plan.steps * len(self.rows)

    def __getitem__(self, index: int) -> Example:
        step, row = divmod(index, len(self.rows))
        batch = self.plan.batch(step)
        place = self.rows[row]
        if place < len(batch):
            return self._masked(self.examples[batch[place]], 1)
        return self._masked(self._nothing(batch[0]), 0)

    def _masked(self, example: HostBatch, mask: int) -> HostBatch:
        if "mask" in example:
            raise ValueError('"mask" tells rows from padding; what a preprocess gives needs another name')
        return {**example, "mask": np.asarray(mask, np.int32)}

    def _nothing(self, index: int) -> HostBatch:
        """Zeros in the shapes of an example, which is read once for many rows."""
        shapes = self._shapes.get(index)
        if shapes is None:
            shapes = {name: (x.shape, x.dtype) for name, x in self.examples[index].items()}
            self._shapes[index] = shapes
        return {name: np.zeros(*shape) for name, shape in shapes.items()}

    @functools.cached_property
    def _shapes(self) -> dict[int, dict[str, tuple[tuple[int, ...], np.dtype]]]:
        return {}
