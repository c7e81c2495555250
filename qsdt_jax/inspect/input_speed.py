"""How fast images like ImageNet's become inputs: each stage on one core, and the pipeline on all."""

import dataclasses
import functools
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.cpus import usable_cpus
from qsdt_jax.data.images import decode_image
from qsdt_jax.data.pipeline import Preprocess, training_batches
from qsdt_jax.data.sources import Example
from qsdt_jax.errors import UserError

HEIGHT, WIDTH = 400, 500  # Of a typical image of ImageNet, in pixels.
QUALITY = 97  # Gives JPEGs of about the mean size of ImageNet's, 138 GB / 1.28 million.
IMAGES = 64
REPEATS = 5  # Groups of which the median counts.
SECONDS = 1.0  # Of CPU that a group takes at least.
BATCH = 64

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Jpegs:
    """JPEGs in memory, cut out of scikit-learn's two photographs, as a source."""

    encoded: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Example:
        return {"image": decode_image(self.encoded[index], 3, str(index))}


def jpegs() -> Jpegs:
    """`IMAGES` different ones of 500x400 pixels."""
    from sklearn.datasets import load_sample_images  # A second to import.

    photographs, generator = load_sample_images().images, np.random.default_rng(0)

    def encoded(i: int) -> bytes:
        photograph, buffer = photographs[i % len(photographs)], io.BytesIO()
        top, left = (
            int(generator.integers(0, size - cut + 1))
            for size, cut in zip(photograph.shape[:2], (HEIGHT, WIDTH), strict=True)
        )
        cut = photograph[top : top + HEIGHT, left : left + WIDTH]
        Image.fromarray(cut).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    return Jpegs(tuple(encoded(i) for i in range(IMAGES)))


def measure_input(config: ml_collections.ConfigDict) -> Result:
    """Images per second of each stage and of the pipeline.

    Rates of stages are per second of CPU time of one thread, so that other work on the machine plays little
    role; those of the pipeline are by the clock.

    Args:
      config: of images in colour that are cropped and flipped.

    Raises:
      UserError: another config.
    """
    preprocess = build_preprocess(config)
    if not isinstance(preprocess, Preprocess) or preprocess.augmentation != "crop_flip":
        raise UserError("expected a config of images with config.data.augmentation='crop_flip'")
    if config.data.channels != 3:
        raise UserError(
            f"expected a config of images in colour, but config.data.channels={config.data.channels}"
        )
    source = jpegs()
    workers = usable_cpus()
    return {
        "images": {
            "height": HEIGHT,
            "width": WIDTH,
            "mean_bytes": round(statistics.mean(map(len, source.encoded))),
            "input_size": list(preprocess.size),
            "bytes_to_device": _bytes_to_device(source, preprocess),
        },
        "stages": {name: _rate(source, stage) for name, stage in _stages(source, preprocess).items()},
        "pipeline": {
            f"{count} worker processes" if count else "threads": _pipeline(source, preprocess, count)
            for count in (0, workers)
        },
        "cores": workers,
    }


def _stages(source: Jpegs, preprocess: Preprocess) -> dict[str, Callable[[int, np.random.Generator], Any]]:
    """What is done with image i, each stage including what comes before it."""

    def train(settings: Preprocess, i: int, generator: np.random.Generator) -> Example:
        return settings.train(source[i], generator)

    plain = dataclasses.replace(preprocess, randaugment_magnitude=0.0, erase_probability=0.0)
    stages: dict[str, Callable[[int, np.random.Generator], Any]] = {
        "decode": lambda i, generator: source[i],
        "decode, crop, flip": functools.partial(train, plain),
    }
    if preprocess != plain:
        stages["all of training"] = functools.partial(train, preprocess)
    stages["decode, evaluation"] = lambda i, generator: preprocess.evaluate(source[i])
    return stages


def _bytes_to_device(source: Jpegs, preprocess: Preprocess) -> int:
    """Of an image in a batch, with all that comes with it."""
    batch = next(training_batches(source, preprocess.train, seed=0, batch_size=BATCH))
    return sum(values.nbytes for values in batch.values()) // BATCH


def _rate(source: Jpegs, stage: Callable[[int, np.random.Generator], Any]) -> float:
    rates, number = [], 0
    for _ in range(REPEATS):
        start, first = time.thread_time(), number
        while time.thread_time() - start < SECONDS or number - first < len(source):
            stage(number % len(source), np.random.default_rng(number))
            number += 1
        rates.append((number - first) / (time.thread_time() - start))
    return statistics.median(rates)


def _pipeline(source: Jpegs, preprocess: Preprocess, workers: int) -> float:
    batches = training_batches(source, preprocess.train, seed=0, batch_size=BATCH, workers=workers)
    next(batches)
    rates = []
    for _ in range(REPEATS):
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS or count < 2:
            next(batches)
            count += 1
        rates.append(count * BATCH / (time.perf_counter() - start))
    return statistics.median(rates)
