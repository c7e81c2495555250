"""The kinds of examples that tasks learn from, and how those of each kind become inputs."""

import dataclasses
from collections.abc import Callable
from typing import get_args

import ml_collections

from qsdt_jax.configuration.rules import OneOf, Rule, Within
from qsdt_jax.data.dense.buckets import Buckets, grid_of
from qsdt_jax.data.dense.detection import DetectionPreprocess, ObjectsAugmentation
from qsdt_jax.data.dense.fake_objects import FakeObjects
from qsdt_jax.data.dense.segmentation import AnnotatedAugmentation, SegmentationPreprocess
from qsdt_jax.data.events.frames import POLARITIES, WITH_SUM, EventAugmentation, EventPreprocess
from qsdt_jax.data.geometry import Size
from qsdt_jax.data.images import MODES
from qsdt_jax.data.preprocess import Augmentation, Preprocess, Preprocessing
from qsdt_jax.data.sources import FakeAnnotated, FakeEvents, FakeSource, LabelledSource
from qsdt_jax.errors import UserError

MADE_FOR_LABELS = ("randaugment_magnitude", "erase_probability", "mixup", "cutmix")  # Keys of other examples.


@dataclasses.dataclass(frozen=True)
class Examples:
    """A kind of examples.

    Attributes:
      preprocess: from a configuration to what makes inputs of them; raises UserError for values out of range
        or unfit for each other.
      fake: random ones, for benchmarks and tests: from their number, the shape (H, W, C) of an image, the
        number of classes, and whether they are events.
    """

    preprocess: Callable[[ml_collections.ConfigDict], Preprocessing]
    fake: Callable[[int, tuple[int, int, int], int, bool], LabelledSource]


def _preprocess_labelled(config: ml_collections.ConfigDict) -> Preprocessing:
    """From images or events to inputs; raises UserError for values out of range or unfit for the channels."""
    data = config.data
    if data.photometric:
        raise UserError("config.data.photometric=True is for images with annotations; expected False")
    _require_no_portrait(config)
    if data.events:
        return _build_event_preprocess(config)
    _require(config, "augmentation", OneOf(get_args(Augmentation)))
    _require_channels(config)
    if data.randaugment_magnitude and data.channels not in MODES:
        raise UserError(f"RandAugment takes 1 or 3 channels, but config.data.channels={data.channels}")
    return Preprocess(
        size=_size(config),
        mean=tuple(data.mean),
        std=tuple(data.std),
        augmentation=data.augmentation,
        crop_area=tuple(data.crop_area),
        crop_aspect=tuple(data.crop_aspect),
        randaugment_magnitude=data.randaugment_magnitude,
        randaugment_std=data.randaugment_std,
        randaugment_operations=data.randaugment_operations,
        erase_probability=data.erase_probability,
        evaluation_crop_ratio=data.eval_crop_ratio,
    )


def _build_event_preprocess(config: ml_collections.ConfigDict) -> EventPreprocess:
    data = config.data
    size = _size(config)
    _require(config, "augmentation", OneOf(get_args(EventAugmentation)))
    _require(config, "roll", Within(0, min(size)))
    if data.channels not in (POLARITIES, WITH_SUM):
        raise UserError(
            f"events have {POLARITIES} channels, or {WITH_SUM} with the sum of both polarities, but "
            f"config.data.channels={data.channels}"
        )
    return EventPreprocess(
        size=size,
        timesteps=config.model.timesteps,
        slicing=data.slicing,
        augmentation=data.augmentation,
        roll=data.roll,
        channels=data.channels,
    )


def _fake_labelled(images: int, shape: tuple[int, int, int], classes: int, events: bool) -> LabelledSource:
    return FakeEvents(images, shape[:2], classes) if events else FakeSource(images, shape, classes)


def _preprocess_annotated(config: ml_collections.ConfigDict) -> Preprocessing:
    data = config.data
    if data.events:
        raise UserError("events have no annotation of pixels, but config.data.events=True")
    _require_no_portrait(config)
    _require_not_labelled(config, "images with annotations")
    _require(config, "augmentation", OneOf(get_args(AnnotatedAugmentation)))
    _require_whole_images(config)
    return SegmentationPreprocess(
        size=_size(config),
        mean=tuple(data.mean),
        std=tuple(data.std),
        buckets=_buckets(config, annotated=True),
        augmentation=data.augmentation,
        resize_ratio=tuple(data.resize_ratio),
        largest_share=data.largest_share,
        photometric=data.photometric,
    )


def _fake_annotated(images: int, shape: tuple[int, int, int], classes: int, events: bool) -> LabelledSource:
    del events  # `_preprocess_annotated` refuses them.
    return FakeAnnotated(images, shape, classes)


def _preprocess_objects(config: ml_collections.ConfigDict) -> Preprocessing:
    data = config.data
    if data.events:
        raise UserError("events have no boxes of objects, but config.data.events=True")
    if data.photometric:
        raise UserError("config.data.photometric=True is for images with annotations; expected False")
    _require_not_labelled(config, "images with objects")
    _require(config, "augmentation", OneOf(get_args(ObjectsAugmentation)))
    _require_whole_images(config)
    return DetectionPreprocess(
        size=_size(config),
        mean=tuple(data.mean),
        std=tuple(data.std),
        buckets=_buckets(config, annotated=False),
        augmentation=data.augmentation,
        portrait=data.portrait,
        short_sides=tuple(data.short_sides),
        crop_short_sides=tuple(data.crop_short_sides),
        crop_sides=tuple(data.crop_sides),
        objects=data.objects,
    )


def _fake_objects(images: int, shape: tuple[int, int, int], classes: int, events: bool) -> LabelledSource:
    del events  # `_preprocess_objects` refuses them.
    return FakeObjects(images, shape, classes)


def _buckets(config: ml_collections.ConfigDict, *, annotated: bool) -> Buckets:
    """Of images that are shown whole."""
    data = config.data
    return Buckets(
        short_side=data.short_side,
        long_side=data.long_side,
        sizes=tuple((height, width) for height, width in data.buckets),
        grid=grid_of(_size(config)),
        annotated=annotated,
    )


def _require_whole_images(config: ml_collections.ConfigDict) -> None:
    """Refuses what images that are shown whole cannot have."""
    data = config.data
    _require_channels(config)
    if data.channels not in MODES:
        raise UserError(f"images have 1 or 3 channels, but config.data.channels={data.channels}")
    if data.long_side < data.short_side:
        raise UserError(
            f"config.data.long_side={data.long_side} is below config.data.short_side={data.short_side}"
        )


def _require_not_labelled(config: ml_collections.ConfigDict, examples: str) -> None:
    """Refuses what is made for images that are in one class each."""
    for key in MADE_FOR_LABELS:
        if config.data[key]:
            raise UserError(f"config.data.{key}={config.data[key]} is not for {examples}; expected 0")


def _require_no_portrait(config: ml_collections.ConfigDict) -> None:
    if config.data.portrait:
        raise UserError("config.data.portrait=True is for images with objects; expected False")


def _size(config: ml_collections.ConfigDict) -> Size:
    """Height and width of an input in pixels."""
    height, width = config.data.image_size
    return height, width


def _require_channels(config: ml_collections.ConfigDict) -> None:
    """Refuses a normalisation that does not fit the channels."""
    data = config.data
    for name in ("mean", "std"):
        if len(data[name]) not in (1, data.channels):
            raise UserError(f"config.data.{name} has {len(data[name])} values for {data.channels} channels")


def _require(config: ml_collections.ConfigDict, key: str, rule: Rule) -> None:
    """Refuses a value that does not fit the others of its section."""
    value = config.data[key]
    if fault := rule.fault(value):
        raise UserError(f"config.data.{key}={value!r} {fault}")


LABELLED = Examples(_preprocess_labelled, _fake_labelled)
"""Images or streams of events with a label, or with what a task of one's own learns from."""
ANNOTATED = Examples(_preprocess_annotated, _fake_annotated)
"""Images with the class of each pixel, see `data.dense.segmentation`."""
OBJECTS = Examples(_preprocess_objects, _fake_objects)
"""Images with boxes, categories and masks of objects, see `data.dense.detection`."""
