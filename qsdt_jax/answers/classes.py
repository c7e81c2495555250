"""Classifiers: the classes of an image with their probabilities."""

import dataclasses
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from qsdt_jax.answers.answering import Answerer, Answering, answered
from qsdt_jax.answers.pictures import Shown
from qsdt_jax.data.classes import Classes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The classes of one image.

    Attributes:
      name: of the image.
      view: uint8 (H, W, C), the part of the image that the network sees, at its resolution; of events
        float32 (T, H, W, C), the frames.
      logits: float32 (K,).
    """

    name: str
    view: np.ndarray
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """float64 (K,), which add up to 1."""
        return softmax(self.logits)

    @property
    def order(self) -> np.ndarray:
        """(K,) class indices, the likeliest first."""
        return ranked(self.logits)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a network says of N images.

    Attributes:
      logits: float32 (N, K).
      probabilities: float64 (N, K), each row adds up to 1.
      class_names: K names, numbers where they are not known.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.logits)

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """For each image the likeliest classes with their probabilities, the likeliest first."""
        orders = ranked(self.logits)[:, :count]
        return [
            [(self.class_names[k], float(row[k])) for k in order]
            for order, row in zip(orders, self.probabilities, strict=True)
        ]


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 probabilities over the last axis."""
    likelihoods = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return likelihoods / likelihoods.sum(-1, keepdims=True)


def ranked(values: np.ndarray) -> np.ndarray:
    """Indices along the last axis, those of the largest values first, equal ones in their order."""
    return np.argsort(-values, axis=-1, kind="stable")


def stream(network: Answerer, images: Iterable[Shown]) -> Iterator[Prediction]:
    """The classes of each image."""
    for batch, logits in answered(network, images):
        for image, row in zip(batch, jax.device_get(logits), strict=True):
            yield Prediction(name=image.name, view=image.view["image"], logits=row)


def collect(answers: Iterable[Prediction], classes: Classes) -> Predictions:
    """The classes of all images."""
    logits = np.stack([answer.logits for answer in answers])
    return Predictions(logits=logits, probabilities=softmax(logits), class_names=classes.shown)


CLASSES = Answering(
    stream=stream,
    collect=collect,
    network="classifier",
    answers="classes with probabilities",
    pipeline_tag="image-classification",
)
"""Networks with logits (B, K)."""
