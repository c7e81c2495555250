"""From a configuration to its data: the splits, and how their examples become inputs."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from qsdt_jax.assemble.imported import imported_object
from qsdt_jax.assemble.shapes import image_size, input_shape
from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.data.dense.annotated_source import read_pairs
from qsdt_jax.data.dense.coco_source import read_coco_split
from qsdt_jax.data.dense.orientation import Groups, orientations
from qsdt_jax.data.dense.segmentation_folders import Layout, ade20k_layout, segfolder_layout
from qsdt_jax.data.events.simulated import DigitEvents
from qsdt_jax.data.plan import sizes_of
from qsdt_jax.data.preprocess import Preprocessing
from qsdt_jax.data.skipping import SkipCorrupt
from qsdt_jax.data.sources import (
    DIGITS,
    DigitsSource,
    FolderSource,
    LabelledSource,
    Source,
)
from qsdt_jax.data.tfds_source import TfdsSource
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded

SOURCES = ("digits", "folder", "tfds", "digits_dvs", "motion_dvs", "ade20k", "segfolder", "coco", "fake")
FOLDER_SPLITS = {"train": "train", "test": "val"}


class Data(NamedTuple):
    """The data of a run: training, the splits to evaluate, and how an example becomes an input.

    Attributes:
      training: as training reads it; training_images: their number.
      training_groups: of its images, those that may share a batch; None for all.
      evaluated: by the name of the split, the one that decides first.
      preprocess: of an example.
      input_shape: of one input.
    """

    training: Source
    training_images: int
    training_groups: Groups | None
    evaluated: Mapping[str, Source]
    preprocess: Preprocessing
    input_shape: tuple[int, ...]


def build_data(config: ml_collections.ConfigDict) -> Data:
    """The data of a configuration.

    Raises:
      UserError: values that do not fit each other, or files that are not there.
    """
    training = build_training_source(config)
    return Data(
        training=training,
        training_images=len(training),
        training_groups=training.groups,
        evaluated={name: build_source(config, name) for name in config.eval.splits},
        preprocess=build_preprocess(config),
        input_shape=input_shape(config),
    )


def build_training_source(config: ml_collections.ConfigDict) -> SkipCorrupt[Any]:
    """The "train" split as training reads it: beyond records that are corrupt; raises as `build_source`."""
    return skipping(config, build_source(config, "train"))


def skipping(config: ml_collections.ConfigDict, source: Source) -> SkipCorrupt[Any]:
    """A source beyond its corrupt records, with the groups that its batches are made of where it has some."""
    groups = None
    if config.data.portrait:
        build_preprocess(config)  # Refuses this for other examples, which may not tell their sizes.
        groups = orientations(sizes_of(source, len(source)))
    return SkipCorrupt(source, config.data.corrupt_limit, groups)


def build_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """The "train" or "test" split.

    A source of one's own is named by its place, see `assemble.imported`: a function of the configuration and
    of "train" or "test".

    Raises:
      UserError: an unknown source, or files that are not there.
    """
    data = config.data
    if data.reduce_zero_label and data.source in ("ade20k", "tfds"):
        raise UserError(
            "config.data.reduce_zero_label=True is of segfolder; "
            f"expected False with config.data.source={data.source!r}, which says itself what its numbers mean"
        )
    match data.source:
        case "digits":
            if data.channels != 1:
                raise UserError(f"the digits have 1 channel, but config.data.channels={data.channels}")
            names = tuple(data.classes) or DIGITS
            if len(set(names)) < len(names) or not set(names) <= set(DIGITS):
                raise UserError(f"config.data.classes={names} must be different ones of {''.join(DIGITS)}")
            return DigitsSource(
                "train" if split == "train" else "test",
                max(image_size(config)),
                names,
                data.digits_images or None,
                data.digits_noise,
            )
        case "folder":
            if not data.path:
                raise UserError("config.data.path is empty; a folder source needs the images' folder")
            return FolderSource(Path(expanded(data.path)), FOLDER_SPLITS[split], data.channels)
        case "ade20k" | "segfolder":
            if not data.path:
                raise UserError(f"config.data.path is empty; {data.source} needs the folder of the files")
            return read_pairs(
                _layout(config, Path(expanded(data.path))),
                "train" if split == "train" else "test",
                data.channels,
            )
        case "coco":
            if not data.path:
                raise UserError("config.data.path is empty; coco needs the folder of the files")
            return read_coco_split(
                Path(expanded(data.path)), "train" if split == "train" else "test", data.channels
            )
        case "tfds":
            if not data.path:
                raise UserError("config.data.path is empty; a tfds source needs the prepared directory")
            source = TfdsSource(
                Path(expanded(data.path)), "train" if split == "train" else "test", data.channels
            )
            if (source.kind == "events") != data.events:
                raise UserError(
                    f"{source.directory} holds {source.kind}, but config.data.events={data.events}"
                )
            return source
        case "digits_dvs" | "motion_dvs":
            if not data.events:
                raise UserError(f"{data.source} are events, but config.data.events=False")
            return DigitEvents(
                "train" if split == "train" else "test",
                "saccades" if data.source == "digits_dvs" else "sweep",
                max(image_size(config)),
            )
        case "fake":
            return fake_source(config)
        case other:
            build = imported_object("data.source", other, SOURCES)
            if not callable(build) or not _takes_two(build):
                raise UserError(f"config.data.source={other!r}: expected a function of config and split")
            source: Any = build(config, split)
            return source


def _layout(config: ml_collections.ConfigDict, path: Path) -> Layout:
    """Of folders of images and annotations."""
    if config.data.source == "segfolder":
        return segfolder_layout(path, reduce_zero_label=config.data.reduce_zero_label)
    return ade20k_layout(path)


def _takes_two(function: Callable) -> bool:
    """Whether it can be called with two arguments, as far as it tells."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # Some built-in functions do not tell.
        return True
    return True


def class_names_of(source: Source) -> tuple[str, ...] | None:
    """What a source calls the classes of its labels; None where it has none."""
    return getattr(source, "class_names", None)


def build_preprocess(config: ml_collections.ConfigDict) -> Preprocessing:
    """From the examples of the configuration's task to inputs.

    Raises:
      UserError: values out of range or unfit for each other.
    """
    return task_factory(config.task.name).examples.preprocess(config)


def fake_source(config: ml_collections.ConfigDict) -> LabelledSource:
    """Random examples of the configuration's task, in the shape that it expects."""
    data, (height, width) = config.data, config.data.image_size
    fake = task_factory(config.task.name).examples.fake
    return fake(data.fake_images, (height, width, data.channels), data.fake_classes, data.events)
