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
from qsdt_jax.data.dense.detection import DetectionPreprocess
from qsdt_jax.data.dense.instances import Instance, ListedImage
from qsdt_jax.data.dense.segmentation import SegmentationPreprocess
from qsdt_jax.data.images import decode_image
from qsdt_jax.data.pipeline import training_batches
from qsdt_jax.data.preprocess import Preprocess
from qsdt_jax.data.sources import Example
from qsdt_jax.errors import UserError

HEIGHT, WIDTH = 400, 500  # Of a typical image of ImageNet, in pixels.
QUALITY = 97  # Gives JPEGs of about the mean size of ImageNet's, 138 GB / 1.28 million.
IMAGES = 64
REPEATS = 5  # Groups of which the median counts.
SECONDS = 1.0  # Of CPU that a group takes at least.
BATCH = 64

OBJECTS = 7  # Of an image, as in COCO.

CROPPING = ("crop_flip", "resize_crop", "resize_crop_flip", "resize_or_crop", "resize_or_crop_flip")

Result = dict[str, Any]
Images = Preprocess | SegmentationPreprocess | DetectionPreprocess


@dataclasses.dataclass(frozen=True)
class Jpegs:
    """JPEGs in memory, cut out of scikit-learn's two photographs, as a source.

    Attributes:
      encoded: files of the images.
      annotations: files of their annotations, PNGs with the class of each pixel; none for other images.
      objects: of the images; none for other images.
    """

    encoded: tuple[bytes, ...]
    annotations: tuple[bytes, ...] = ()
    objects: tuple[ListedImage, ...] = ()

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Example:
        example: Example = {"image": decode_image(self.encoded[index], 3, str(index))}
        if self.annotations:
            example["annotation"] = decode_image(self.annotations[index], 1, str(index))[..., 0]
        if self.objects:
            example |= {"index": index, **self.objects[index].objects()}
        return example


def jpegs(*, annotated: bool = False, objects: bool = False) -> Jpegs:
    """`IMAGES` different ones of 500x400 pixels; the class of an annotated pixel is one of 64 colours.

    Objects are polygons of 20 points in one of 80 categories, a twentieth of the image each on average.
    """
    from sklearn.datasets import load_sample_images  # A second to import.

    photographs, generator = load_sample_images().images, np.random.default_rng(0)

    def cut(i: int) -> np.ndarray:
        photograph = photographs[i % len(photographs)]
        top, left = (
            int(generator.integers(0, size - side + 1))
            for size, side in zip(photograph.shape[:2], (HEIGHT, WIDTH), strict=True)
        )
        return photograph[top : top + HEIGHT, left : left + WIDTH]

    images = [cut(i) for i in range(IMAGES)]
    encoded = tuple(_encoded(image, "JPEG", quality=QUALITY) for image in images)
    if objects:
        return Jpegs(encoded, objects=tuple(_objects(i, generator) for i in range(IMAGES)))
    if not annotated:
        return Jpegs(encoded)
    classes = (image // 64 @ np.array([16, 4, 1], np.uint8) for image in images)
    return Jpegs(encoded, tuple(_encoded(one, "PNG") for one in classes))


def _objects(index: int, generator: np.random.Generator) -> ListedImage:
    """Random polygons in an image."""
    instances = []
    for place in range(OBJECTS):
        height, width = generator.uniform(0.05, 0.45, 2) * (HEIGHT, WIDTH)
        y, x = generator.uniform(0, 1, 2) * (HEIGHT - height, WIDTH - width)
        angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        points = np.stack([x + width * (1 + np.cos(angles)) / 2, y + height * (1 + np.sin(angles)) / 2], 1)
        category = int(generator.integers(80))
        instances.append(
            Instance(place, category, (x, y, width, height), width * height, False, (points.reshape(-1),))
        )
    return ListedImage(index, f"{index}.jpg", (HEIGHT, WIDTH), tuple(instances))


def _encoded(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def measure_input(config: ml_collections.ConfigDict) -> Result:
    """Images per second of each stage and of the pipeline.

    Rates of stages are per second of CPU time of one thread, so that other work on the machine plays little
    role; those of the pipeline are by the clock.

    Args:
      config: of images in colour that are cropped, with annotations, with objects, or without.

    Raises:
      UserError: another config.
    """
    preprocess = build_preprocess(config)
    if config.data.augmentation not in CROPPING or not isinstance(preprocess, Images):
        raise UserError(f"expected a config of images with config.data.augmentation={' or '.join(CROPPING)}")
    if config.data.channels != 3:
        raise UserError(
            f"expected a config of images in colour, but config.data.channels={config.data.channels}"
        )
    source = jpegs(
        annotated=isinstance(preprocess, SegmentationPreprocess),
        objects=isinstance(preprocess, DetectionPreprocess),
    )
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


def _stages(source: Jpegs, preprocess: Images) -> dict[str, Callable[[int, np.random.Generator], Any]]:
    """What is done with image i, each stage including what comes before it.

    Buckets of fixed sizes need not hold an image like ImageNet's: they grow with it here.
    """

    def train(settings: Images, i: int, generator: np.random.Generator) -> Example:
        return settings.train(source[i], generator)

    if isinstance(preprocess, SegmentationPreprocess | DetectionPreprocess):
        preprocess = dataclasses.replace(
            preprocess, buckets=dataclasses.replace(preprocess.buckets, sizes=())
        )
    if isinstance(preprocess, SegmentationPreprocess):
        plain = dataclasses.replace(preprocess, photometric=False)
    elif isinstance(preprocess, DetectionPreprocess):
        plain = preprocess
    else:
        plain = dataclasses.replace(preprocess, randaugment_magnitude=0.0, erase_probability=0.0)
    stages: dict[str, Callable[[int, np.random.Generator], Any]] = {
        "decode": lambda i, generator: source[i],
        "decode, crop, flip": functools.partial(train, plain),
    }
    if preprocess != plain:
        stages["all of training"] = functools.partial(train, preprocess)
    stages["decode, evaluation"] = lambda i, generator: preprocess.evaluate(source[i])
    return stages


def _bytes_to_device(source: Jpegs, preprocess: Images) -> int:
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


def _pipeline(source: Jpegs, preprocess: Images, workers: int) -> float:
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
