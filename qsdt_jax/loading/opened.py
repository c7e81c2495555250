"""A network opened as a library: images in, answers out."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from qsdt_jax.answers.answering import Answerer, Answering, in_batches
from qsdt_jax.answers.classes import Predictions
from qsdt_jax.answers.maps import ClassMaps
from qsdt_jax.answers.objects import Detections
from qsdt_jax.answers.pictures import Picture, shown
from qsdt_jax.answers.streams import Shower, given_files
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.network import Network as Model
from qsdt_jax.assemble.network import require_network, timesteps_of
from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.data.classes import Classes
from qsdt_jax.data.dense.framing import SIZE
from qsdt_jax.data.events.frames import EventPreprocess
from qsdt_jax.data.preprocess import ImagePreprocessing, Preprocessing
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded
from qsdt_jax.loading.trained import outputs
from qsdt_jax.tasks.task import Batch, Task, Variables


class Opened(Shower, Answerer, Protocol):
    """What `predict` and `predict_events` take."""

    @property
    def where(self) -> str: ...

    @property
    def answering(self) -> Answering | None: ...

    @property
    def classes(self) -> Classes: ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network with its variables, ready to predict.

    Attributes:
      where: what it is called in messages.
      config: the configuration that it was built with.
      task: with its network.
      variables: {"params", "batch_stats"} of it.
      classes: what is known of its outputs.
      origin: plain data about where it came from.
    """

    where: str
    config: ml_collections.ConfigDict
    task: Task
    variables: Variables
    classes: Classes
    origin: Mapping[str, Any]

    @property
    def model(self) -> Model:
        """The flax module; raises UserError where the task has a network of its own."""
        return require_network(self.task.model, self.where)

    @property
    def title(self) -> str:
        return self.where

    @property
    def inputs(self) -> Preprocessing:
        """From images or events to inputs, as in evaluation."""
        return build_preprocess(self.config)

    @property
    def preprocess(self) -> ImagePreprocessing:
        """From an image to an input, as in evaluation; raises UserError where the network takes events."""
        preprocess = self.inputs
        if not isinstance(preprocess, ImagePreprocessing):
            raise UserError(f"{self.where} takes events; expected a network of images, or predict_events")
        return preprocess

    @property
    def channels(self) -> int:
        return self.config.data.channels

    @property
    def answering(self) -> Answering | None:
        """How it answers for images; None where its task does not say."""
        return task_factory(self.config.task.name).answering

    def outputs(self, batch: Batch) -> Any:
        """What its task makes of inputs, see `tasks.task.Task.outputs`."""
        return outputs(self.task, self.variables, batch)

    def predict(self, images: Picture | Iterable[Picture]) -> Predictions | ClassMaps | Detections:
        """What the network says of images of any size.

        Args:
          images: files, Pillow images, or uint8 arrays (H, W, C) or (H, W), mixed as you like; one of them is
            a batch of one. They become inputs as in evaluation.

        Returns:
          Of a classifier the classes; of a segmenter the class of each pixel; of a detector the objects.

        Raises:
          UserError: a file that is no image, an array of another type or shape, a task that does not answer.
        """
        return predict(self, images)

    def predict_events(
        self,
        files: str | Path | Iterable[str | Path],
        *,
        sensor_size: tuple[int, ...] = (),
        on_its_side: bool | None = None,
    ) -> Predictions:
        """What a classifier of events says of recordings.

        Args:
          files: of any format of `data.events.files`; one of them is a batch of one.
          sensor_size, on_its_side: see `answers.streams.given_files`.

        Raises:
          UserError: a network of images; a file that is no recording, or does not say its sensor's size.
        """
        return predict_events(self, files, sensor_size, on_its_side)

    def features(self, images: Picture | Iterable[Picture]) -> dict[str, np.ndarray]:
        """The residual stream after each stage, float32 (N, h, w, c) at strides 2, 4, 8, 16 and 16.

        Those of a SpikingResformer are at strides 4, 4, 8 and 16, of small images at 1, 1, 2 and 4. Of
        several time steps the mean. A segmenter's are of the whole arrays that images are shown in, of which
        `preprocess.view(image)["size"]` is image. Arguments and errors are those of `predict`, and images
        have to be shown in arrays of one size.
        """
        views = list(shown(images, self.preprocess, self.channels))
        shapes = {image.view["image"].shape for image in views}
        if len(shapes) > 1:
            sizes = ", ".join(f"{height}x{width}" for height, width, _ in sorted(shapes))
            raise UserError(f"the images are shown in arrays of {sizes}: ask for the features of each size")
        compute = functools.partial(_features, self.model, self.variables)
        batches = in_batches(views, compute, self.preprocess.normalization)
        parts = [jax.device_get(features) for _, features in batches]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@functools.partial(jax.jit, static_argnums=0)
def _features(model: Model, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
    sizes: dict[str, Any] = {"sizes": batch[SIZE]} if SIZE in batch else {}
    stages: Any = model.apply(variables, batch["image"], method="features", **sizes)
    timesteps = timesteps_of(model)
    return {name: jnp.mean(x.reshape(-1, timesteps, *x.shape[1:]), axis=1) for name, x in stages.items()}


def predict(network: Opened, images: Picture | Iterable[Picture]) -> Any:
    """All answers of a network for images; arguments and errors as of `Network.predict`."""
    if network.answering is None:
        raise UserError(f"{network.where}: the task of this network does not say how it answers for images")
    found = shown(images, network.preprocess, network.channels)
    return network.answering.collect(network.answering.stream(network, found), network.classes)


def predict_events(
    network: Opened,
    files: str | Path | Iterable[str | Path],
    sensor_size: tuple[int, ...],
    on_its_side: bool | None,
) -> Any:
    """All answers of a network for recordings; arguments and errors as of `Network.predict_events`."""
    if not isinstance(network.inputs, EventPreprocess) or network.answering is None:
        raise UserError(f"{network.where} takes no events; expected a network of them, or predict")
    several = [files] if isinstance(files, str | Path) else list(files)
    if not several:
        raise UserError("no recordings; expected at least one")
    given = given_files(network, sensor_size, on_its_side)
    found = (given.show(expanded(str(file))) for file in several)
    return network.answering.collect(network.answering.stream(given, found), network.classes)
