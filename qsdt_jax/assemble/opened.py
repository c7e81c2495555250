"""A network opened as a library: images in, classes with probabilities out."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image

from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.trained import scores
from qsdt_jax.data.classes import Classes
from qsdt_jax.data.images import DECODE_ERRORS, MODES, decode_reason, in_bytes, normalize, read_image
from qsdt_jax.data.pipeline import Preprocess
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded
from qsdt_jax.models import Classifier
from qsdt_jax.tasks.task import Variables

Picture = str | Path | Image.Image | np.ndarray
LARGEST_BATCH = 32


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
        orders = np.argsort(-self.logits, axis=-1, kind="stable")[:, :count]
        return [
            [(self.class_names[k], float(row[k])) for k in order]
            for order, row in zip(orders, self.probabilities, strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network with its variables, ready to predict.

    Attributes:
      where: what it is called in messages.
      config: the configuration that it was built with.
      model: the flax module.
      variables: {"params", "batch_stats"} of it.
      classes: what is known of its outputs.
      origin: plain data about where it came from.
    """

    where: str
    config: ml_collections.ConfigDict
    model: Classifier
    variables: Variables
    classes: Classes
    origin: Mapping[str, Any]

    @functools.cached_property
    def preprocess(self) -> Preprocess:
        """From an image to an input, as in evaluation; raises UserError where the network takes events."""
        preprocess = build_preprocess(self.config)
        if not isinstance(preprocess, Preprocess):
            raise UserError(f"{self.where} takes events: give frames to model.apply(variables, frames)")
        return preprocess

    def predict(self, images: Picture | Iterable[Picture]) -> Predictions:
        """The classes of images of any size.

        Args:
          images: files, Pillow images, or uint8 arrays (H, W, C) or (H, W), mixed as you like; one of them is
            a batch of one. They are scaled, cropped and normalised as in evaluation.

        Raises:
          UserError: a file that is no image, an array of another type or shape.
        """
        inputs = self._inputs(images)
        return predictions(inputs, functools.partial(scores, self.model, self.variables), self.classes)

    def features(self, images: Picture | Iterable[Picture]) -> dict[str, np.ndarray]:
        """The residual stream after each stage, float32 (N, h, w, c) at strides 2, 4, 8, 16 and 16.

        Of several time steps the mean. Arguments and errors are those of `predict`.
        """
        compute = functools.partial(_features, self.model, self.variables)
        parts = list(in_batches(self._inputs(images), compute))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _inputs(self, images: Picture | Iterable[Picture]) -> Iterator[np.ndarray]:
        return inputs_of(images, self.preprocess, self.model.backbone.in_channels)


@functools.partial(jax.jit, static_argnums=0)
def _features(model: Classifier, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
    stages: Any = model.apply(variables, images, method="features")
    timesteps = model.backbone.timesteps
    return {name: jnp.mean(x.reshape(-1, timesteps, *x.shape[1:]), axis=1) for name, x in stages.items()}


def inputs_of(
    images: Picture | Iterable[Picture], preprocess: Preprocess, channels: int
) -> Iterator[np.ndarray]:
    """float32 (H, W, C) of each image, at the size of the input and normalised; raises UserError."""
    one = isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4)
    try:
        several: list[Any] = [images] if one else list(images)  # pyright: ignore[reportArgumentType]
    except TypeError:
        found = type(images).__name__
        raise UserError(f"expected an image or several of them, found {found}") from None
    if not several:
        raise UserError("no images; expected at least one")
    for number, image in enumerate(several):
        view = preprocess.evaluation_view(pixels(image, channels, f"image {number}"))
        yield normalize(view, preprocess.mean, preprocess.std)


def pixels(image: Picture, channels: int, name: str) -> np.ndarray:
    """uint8 (H, W, channels) of an image; raises UserError where it is none."""
    if isinstance(image, str | Path):
        return read_image(expanded(str(image)), channels)
    if channels not in MODES:
        raise UserError(f"images have 1 or 3 channels, but the network takes {channels}")
    if isinstance(image, np.ndarray):
        shape = image.shape
        pixels_of_bytes = image.dtype == np.uint8 and len(shape) in (2, 3) and 0 not in shape
        if not pixels_of_bytes or (*shape, 1)[2] not in (1, 3, 4):
            raise UserError(
                f"{name}: expected a uint8 array (H, W, C) of 0..255, found {image.dtype} {shape}"
            )
        image = Image.fromarray(image[..., 0] if shape[2:] == (1,) else image)
    if not isinstance(image, Image.Image):
        raise UserError(f"{name}: expected a file, a Pillow image or an array, found {type(image).__name__}")
    if 0 in image.size:
        raise UserError(f"{name}: expected pixels, found an image of {image.width}x{image.height}")
    try:
        picture = np.asarray(in_bytes(image).convert(MODES[channels]))
    except DECODE_ERRORS as error:
        raise UserError(f"{name}: not a readable image ({decode_reason(error)})") from None
    return picture.reshape(*picture.shape[:2], channels)


def predictions(inputs: Iterable[np.ndarray], logits: Callable, classes: Classes) -> Predictions:
    """What a function from inputs to logits says of them."""
    found = np.concatenate(list(in_batches(inputs, logits)))
    likelihoods = np.exp(found.astype(np.float64) - found.max(-1, keepdims=True))
    return Predictions(
        logits=found,
        probabilities=likelihoods / likelihoods.sum(-1, keepdims=True),
        class_names=classes.shown,
    )


def in_batches(inputs: Iterable[np.ndarray], compute: Callable) -> Iterator[Any]:
    """Results of a function of batches, as NumPy arrays.

    Batches are filled up to a power of two of rows, so that few programs are compiled.
    """
    inputs = iter(inputs)
    while batch := list(itertools.islice(inputs, LARGEST_BATCH)):
        count = len(batch)
        padding = [np.zeros_like(batch[0])] * ((1 << (count - 1).bit_length()) - count)
        result = jax.device_get(compute(np.stack(batch + padding)))
        yield jax.tree.map(operator.itemgetter(slice(count)), result)
