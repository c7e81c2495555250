"""Segmenters: the class of each pixel of an image, at the image's own size."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from qsdt_jax.answers.answering import Answerer, Answering, answered
from qsdt_jax.answers.classes import ranked
from qsdt_jax.answers.pictures import Shown
from qsdt_jax.data.classes import Classes
from qsdt_jax.data.dense.annotations import annotation_dtype
from qsdt_jax.data.dense.framing import SIZE
from qsdt_jax.data.geometry import Size
from qsdt_jax.evaluate.class_map import class_map


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassMap:
    """The class of each pixel of one image.

    Attributes:
      name: of the image.
      view: uint8 (h, w, C), the image as the network sees it, without padding.
      classes: uint8 (H, W) at the image's own size, uint16 where there are more than 255 classes.
      shares: float64 (K,), of the pixels; they add up to 1.
    """

    name: str
    view: np.ndarray
    classes: np.ndarray
    shares: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassMaps:
    """What a network says of the pixels of N images.

    Attributes:
      maps: of each image uint8 (H, W), the class of each pixel, at the image's own size; uint16 where there
        are more than 255 classes.
      shares: float64 (N, K), the share of each class of an image's pixels; each row adds up to 1.
      class_names: K names, numbers where they are not known.
    """

    maps: tuple[np.ndarray, ...]
    shares: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.maps)

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """For each image the classes that it has with their shares of its pixels, the largest first."""
        return [
            [(self.class_names[k], float(row[k])) for k in ranked(row)[:count] if row[k] > 0]
            for row in self.shares
        ]


def stream(network: Answerer, images: Iterable[Shown]) -> Iterator[ClassMap]:
    """The class of each pixel of each image."""
    buckets = network.preprocess.buckets
    assert buckets is not None  # Views have "size" for what is padding in their bucket.
    for batch, logits in answered(network, images):
        classes = logits.shape[-1]
        for image, row in zip(batch, logits, strict=True):
            padded, size = image.view["image"], image.view[SIZE]
            height, width = image.size
            frame = buckets.of(image.size).annotation
            own = np.array(image.size, np.int32)
            found = np.asarray(_mapped(row, size, own, frame, annotation_dtype(classes)))[:height, :width]
            yield ClassMap(
                name=image.name,
                view=padded[: size[0], : size[1]],
                classes=np.ascontiguousarray(found),
                shares=np.bincount(found.reshape(-1), minlength=classes) / found.size,
            )


@functools.partial(jax.jit, static_argnames=("frame", "dtype"))
def _mapped(logits: jax.Array, size: jax.Array, own: jax.Array, frame: Size, dtype: type) -> jax.Array:
    return class_map(logits, size, own, frame).astype(dtype)


def collect(answers: Iterable[ClassMap], classes: Classes) -> ClassMaps:
    """The classes of the pixels of all images."""
    found = [(answer.classes, answer.shares) for answer in answers]
    maps, shares = zip(*found, strict=True)
    return ClassMaps(maps=maps, shares=np.stack(shares), class_names=classes.shown)


MAPS = Answering(
    stream=stream,
    collect=collect,
    network="segmenter",
    answers="classes by their share of the pixels",
    pipeline_tag="image-segmentation",
)
"""Networks with logits (B, H / 2, W / 2, K) for images in arrays with "size"."""
