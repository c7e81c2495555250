"""A deployed network as a bundle holds it, ready to predict with."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qsdt_jax.answers.answering import Answering
from qsdt_jax.answers.classes import CLASSES
from qsdt_jax.answers.maps import MAPS
from qsdt_jax.answers.objects import OBJECTS
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.network import require_network
from qsdt_jax.data.classes import Classes, numbers
from qsdt_jax.data.dense.detection import DetectionPreprocess
from qsdt_jax.data.dense.framing import SIZE
from qsdt_jax.data.dense.segmentation import SegmentationPreprocess
from qsdt_jax.data.events.frames import POLARITIES, EventPreprocess
from qsdt_jax.data.images import Normalization
from qsdt_jax.data.preprocess import ImagePreprocessing, Preprocess, Preprocessing
from qsdt_jax.deploy.bundle import Bundle, read_bundle, sizes_shown
from qsdt_jax.deploy.detector import FoldedDetector, check_folded, networks_of_detector, runner
from qsdt_jax.deploy.fold import fold, fold_detector
from qsdt_jax.deploy.integer import IntegerArithmetic, integer_forward
from qsdt_jax.deploy.program import Program
from qsdt_jax.detection.inference import Settings, compiled, find_objects
from qsdt_jax.errors import UserError
from qsdt_jax.loading.opened import Network
from qsdt_jax.loading.trained import Trained
from qsdt_jax.models import MaskRCNN
from qsdt_jax.tasks.detection import Detection
from qsdt_jax.tasks.task import Batch, Task, Variables
from qsdt_jax.workdir.provenance import provenance

# In a bundle's origin: whether its class names are known, and not numbers for want of names.
KNOWN = "class_names_known"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployed:
    """A bundle in its integer form; for predictions, what `qsdt_jax.loading.trained.Trained` is.

    Attributes:
      path: of the file.
      bundle: what it holds.
    """

    path: Path
    bundle: Bundle

    @property
    def title(self) -> str:
        return str(self.path)

    @property
    def classes(self) -> Classes:
        """What is known of them: numbers are names only where the exporter knew them to be."""
        names, origin = self.bundle.class_names, self.bundle.origin
        known = names != numbers(len(names)) or (isinstance(origin, dict) and origin.get(KNOWN) is True)
        return Classes(where=self.title, outputs=len(names), names=names if known else None)

    @property
    def channels(self) -> int:
        return self.bundle.program.in_channels

    @property
    def inputs(self) -> Preprocessing:
        """From images or events to inputs; raises UserError where an older bundle does not say how."""
        bundle = self.bundle
        if bundle.slicing is not None:
            assert isinstance(bundle.program, Program)
            timesteps = bundle.program.neuron.timesteps
            return EventPreprocess(
                size=bundle.image_size,
                timesteps=timesteps,
                slicing=bundle.slicing,
                channels=self.channels,
            )
        if self.channels == POLARITIES:
            raise UserError(
                f"{self.path} takes {POLARITIES} channels and does not say how events become its frames, as "
                "bundles of before; export it again"
            )
        return self.preprocess

    @property
    def preprocess(self) -> ImagePreprocessing:
        """Of image files; raises UserError where the network takes events, or an older bundle is silent."""
        bundle = self.bundle
        if bundle.slicing is not None:
            raise UserError(f"expected a network of images, but the one in {self.path} takes events")
        if bundle.settings is not None:
            assert bundle.buckets is not None
            return DetectionPreprocess(
                size=bundle.image_size,
                mean=bundle.mean,
                std=bundle.std,
                buckets=dataclasses.replace(bundle.buckets, annotated=False),
            )
        if not self.of_pixels:
            return Preprocess(
                size=bundle.image_size,
                mean=bundle.mean,
                std=bundle.std,
                evaluation_crop_ratio=bundle.crop_ratio,
            )
        if bundle.buckets is None:
            raise UserError(
                f"{self.path} tells classes of pixels and not how large images are shown, as "
                "bundles of before; export it again"
            )
        return SegmentationPreprocess(
            size=bundle.image_size, mean=bundle.mean, std=bundle.std, buckets=bundle.buckets
        )

    @functools.cached_property
    def of_pixels(self) -> bool:
        """Whether there are logits, and these of pixels."""
        program, (height, width) = self.bundle.program, self.bundle.image_size
        if isinstance(program, FoldedDetector):
            return False
        frames = (program.neuron.timesteps, height, width, program.in_channels)
        image = jax.ShapeDtypeStruct((1, *frames), jnp.float32)
        return jax.eval_shape(integer_forward, program, image).ndim > 2

    @functools.cached_property
    def _forward(self) -> Callable[..., Any]:
        program, settings = self.bundle.program, self.bundle.settings
        if isinstance(program, FoldedDetector):
            assert settings is not None
            networks = networks_of_detector(program, runner(IntegerArithmetic()))
            return functools.partial(find_objects, networks, settings, part=compiled)
        return jax.jit(functools.partial(integer_forward, program))

    @property
    def answering(self) -> Answering:
        """How it answers for images."""
        if self.bundle.settings is not None:
            return OBJECTS
        return MAPS if self.of_pixels else CLASSES

    def outputs(self, batch: Batch) -> Any:
        """What the network gives for {"image": (B, H, W, C)}, where images are padded with "size" (B, 2).

        Logits (B, K), or of pixels (B, H', W', K); of a detector objects, see
        `detection.inference.find_objects`.
        """
        return self._forward(*(batch[name] for name in ("image", SIZE) if name in batch))


def load_deployed(path: str | Path) -> Deployed:
    """A bundle from its file; raises UserError as `read_bundle`."""
    return Deployed(path=Path(path), bundle=read_bundle(path))


def bundle_of(trained: Trained) -> Bundle:
    """The network of a workdir, folded, with what is needed to feed and read it.

    Raises:
      UserError: its weights are float, its sums too large, its outputs no classes, or class and box of a
        detector take real values.
    """
    return _bundle(
        config=trained.config,
        task=trained.task,
        variables=trained.variables,
        classes=trained.require_classes(),
        where=str(trained.workdir),
        origin={"step": trained.step, "ema": trained.ema},
    )


def bundle_of_network(network: Network) -> Bundle:
    """The same of a network that was opened, from wherever it comes; raises UserError as `bundle_of`."""
    return _bundle(
        config=network.config,
        task=network.task,
        variables=network.variables,
        classes=network.classes,
        where=network.where,
        origin=network.origin,
    )


def _bundle(
    *,
    config: ml_collections.ConfigDict,
    task: Task,
    variables: Variables,
    classes: Classes,
    where: str,
    origin: Mapping[str, Any],
) -> Bundle:
    preprocess = build_preprocess(config)
    normalization = preprocess.normalization or Normalization((0.0,), (1.0,))  # Frames are taken as they are.
    model = require_network(task.model, where)
    if isinstance(model, MaskRCNN):
        program, settings = fold_detector(model, variables), _settings(task, where)
    else:
        program, settings = fold(model, variables), None
    check_folded(program, sizes_shown(preprocess.size, preprocess.buckets))
    return Bundle(
        program=program,
        class_names=classes.shown,
        image_size=preprocess.size,
        crop_ratio=preprocess.evaluation_crop_ratio if isinstance(preprocess, Preprocess) else 1.0,
        mean=normalization.mean,
        std=normalization.std,
        architecture={**config.model.to_dict(), "channels": list(config.model.channels)},
        origin={**origin, KNOWN: classes.names is not None, **provenance()},
        buckets=preprocess.buckets,
        settings=settings,
        slicing=preprocess.slicing if isinstance(preprocess, EventPreprocess) else None,
    )


def _settings(task: Task, where: str) -> Settings:
    """Of a detector; raises UserError where its task is one's own."""
    if not isinstance(task, Detection):
        raise UserError(f"{where} has a task of its own; expected config.task.name='detection'")
    return task.settings


def with_inputs_of(deployed: Deployed, config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A configuration whose data become inputs as the bundle says, whatever it says of that itself.

    Raises:
      UserError: its data have another number of channels.
    """
    bundle, channels = deployed.bundle, deployed.channels
    if config.data.channels != channels:
        raise UserError(
            f"{deployed.path} takes {channels} channels, but the configuration of its data has "
            f"config.data.channels={config.data.channels}"
        )
    config = config.copy_and_resolve_references()
    config.data.image_size = bundle.image_size
    config.data.mean, config.data.std = bundle.mean, bundle.std
    config.data.eval_crop_ratio = bundle.crop_ratio
    if bundle.buckets is not None:
        config.data.short_side, config.data.long_side = bundle.buckets.short_side, bundle.buckets.long_side
        config.data.buckets = bundle.buckets.sizes
    if bundle.slicing is not None:
        config.data.slicing = bundle.slicing
    config.model.timesteps = bundle.program.neuron.timesteps
    return config
