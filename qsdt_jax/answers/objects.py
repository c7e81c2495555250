"""Detectors: the objects of an image with category, score, box and mask, at the image's own size."""

import dataclasses
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.answers.answering import Answerer, Answering, answered
from qsdt_jax.answers.pictures import Shown
from qsdt_jax.data.classes import Classes
from qsdt_jax.data.dense.framing import SIZE
from qsdt_jax.evaluate.paste import pasted
from qsdt_jax.tasks.average_precision import own_boxes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The N objects of one image, the surest first.

    Attributes:
      name: of the image.
      image: uint8 (H, W, C) as it came.
      boxes: float32 (N, 4), x0, y0, x1, y1 in pixels of the image.
      scores: float32 (N,), from 0 to 1.
      categories: int32 (N,), 0..K-1.
      shapes: float32 (N, m, n), across each box the probability that it is covered.
    """

    name: str
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    shapes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def masks(self) -> np.ndarray:
        """bool (N, H, W), the pixels of each object, made anew each time."""
        height, width = self.image.shape[:2]
        masks = np.zeros((len(self), height, width), bool)
        for mask, shape, box in zip(masks, self.shapes, self.boxes, strict=True):
            mask[...] = pasted(shape, box, (height, width))
        return masks


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """What a network finds in images.

    Attributes:
      images: the objects of each.
      class_names: K names of the categories, numbers where they are not known.
    """

    images: tuple[Objects, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def boxes(self) -> tuple[np.ndarray, ...]:
        """Of each image float32 (N, 4), x0, y0, x1, y1 in its pixels."""
        return tuple(objects.boxes for objects in self.images)

    @property
    def scores(self) -> tuple[np.ndarray, ...]:
        """Of each image float32 (N,), the largest first."""
        return tuple(objects.scores for objects in self.images)

    @property
    def categories(self) -> tuple[np.ndarray, ...]:
        """Of each image int32 (N,), 0..K-1."""
        return tuple(objects.categories for objects in self.images)

    @property
    def masks(self) -> tuple[np.ndarray, ...]:
        """Of each image bool (N, H, W), made anew each time."""
        return tuple(objects.masks for objects in self.images)

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """For each image the categories of the surest objects with their scores."""
        return [
            [
                (self.class_names[category], float(score))
                for category, score in zip(objects.categories[:count], objects.scores[:count], strict=True)
            ]
            for objects in self.images
        ]


def stream(network: Answerer, images: Iterable[Shown]) -> Iterator[Objects]:
    """The objects of each image."""
    for batch, outputs in answered(network, images):
        found = jax.device_get(outputs)
        sizes = jnp.array([image.view[SIZE] for image in batch])
        boxes = np.asarray(own_boxes(found["boxes"], sizes, jnp.array([image.size for image in batch])))
        for row, image in enumerate(batch):
            filled = found["category"][row] >= 0
            yield Objects(
                name=image.name,
                image=image.pixels,
                boxes=boxes[row][filled],
                scores=found["score"][row][filled],
                categories=found["category"][row][filled],
                shapes=found["mask"][row][filled],
            )


def collect(answers: Iterable[Objects], classes: Classes) -> Detections:
    """The objects of all images."""
    return Detections(images=tuple(answers), class_names=classes.shown)


OBJECTS = Answering(
    stream=stream,
    collect=collect,
    network="detector",
    answers="categories of the surest objects with scores",
    pipeline_tag="object-detection",
)
"""Networks with {"boxes", "score", "category", "mask"} for images in arrays with "size", see
`tasks.average_precision.AveragePrecision.score`."""
