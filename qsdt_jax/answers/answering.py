"""How a network answers for images: one path from what it is shown to an answer for each image.

What an answer is depends on the kind of network, see the modules beside this one; a `TaskFactory` names it.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import numpy as np

from qsdt_jax.answers.pictures import Shown
from qsdt_jax.data.classes import Classes
from qsdt_jax.data.images import Normalization
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.data.preprocess import ImagePreprocessing
from qsdt_jax.tasks.task import Batch

LARGEST_BATCH = 32  # Rows.
LARGEST_IMAGES = 2**22  # Pixels of a batch.


class Answerer(Protocol):
    """What has to be there to answer: a network of a workdir, a saved one, or a bundle."""

    @property
    def preprocess(self) -> ImagePreprocessing: ...

    def outputs(self, batch: Batch) -> Any:
        """What the network gives for a batch of `data.inputs.to_inputs`, arrays of a row for each image."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering:
    """How networks of one kind answer.

    Attributes:
      stream: an answer for each image, in their order, while they come.
      collect: all answers in one object, for those who have the images at hand.
      network: what a network of this kind is called, e.g. "classifier".
      answers: what `collect` gives, in words.
      pipeline_tag: the field's name for this kind, e.g. "image-classification".
    """

    stream: Callable[[Answerer, Iterable[Shown]], Iterator[Any]]
    collect: Callable[[Iterable[Any], Classes], Any]
    network: str
    answers: str
    pipeline_tag: str


def answered(network: Answerer, images: Iterable[Shown]) -> Iterator[tuple[list[Shown], Any]]:
    """Batches of images with the network's outputs for them, see `in_batches`."""
    return in_batches(images, network.outputs, network.preprocess.normalization)


def in_batches(
    images: Iterable[Shown], compute: Callable[[Batch], Any], normalization: Normalization | None
) -> Iterator[tuple[list[Shown], Any]]:
    """A function's results for images in batches.

    A batch has images that follow each other and have views of one shape. It is filled up to a power of two
    of rows, so that few programs are compiled.

    Args:
      images: with their views.
      compute: from inputs to arrays of a row for each image.
      normalization: of the views.

    Returns:
      The images of each batch and the arrays, without rows that fill it up.
    """
    for batch in _alike(images):
        views = [image.view for image in batch]
        views += views[-1:] * ((1 << (len(batch) - 1).bit_length()) - len(batch))
        stacked = {name: np.stack([view[name] for view in views]) for name in views[0]}
        found = compute(to_inputs(stacked, normalization))
        yield batch, jax.tree.map(operator.itemgetter(slice(len(batch))), found)


def _alike(images: Iterable[Shown]) -> Iterator[list[Shown]]:
    """Images that follow each other and have views of one shape, as many as a batch may have."""
    for shape, alike in itertools.groupby(images, key=lambda image: image.view["image"].shape):
        most = min(LARGEST_BATCH, max(1, LARGEST_IMAGES // math.prod(shape[:2])))
        rows = 1 << (most.bit_length() - 1)
        yield from iter(functools.partial(_taken, alike, rows), [])


def _taken(images: Iterator[Shown], count: int) -> list[Shown]:
    return list(itertools.islice(images, count))
