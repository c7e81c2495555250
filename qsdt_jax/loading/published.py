"""Networks of published PyTorch checkpoints: what their files tell, and what goes without saying."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.data.classes import Classes
from qsdt_jax.errors import UserError
from qsdt_jax.interop import from_torch
from qsdt_jax.interop.architecture import class_count, fields_of
from qsdt_jax.interop.entries import kind_of
from qsdt_jax.interop.published import PUBLISHED_GAIN
from qsdt_jax.interop.torch_file import load
from qsdt_jax.loading.opened import Network
from qsdt_jax.nearest import nearest
from qsdt_jax.tasks.task import Task


class Published(NamedTuple):
    """What the published networks of a kind have in common.

    Attributes:
      task: its name in a configuration.
      data: keys of what they were evaluated on.
      model: keys that the files do not tell.
      of_run: keys of `config.model` that they do not tell either, and that a run which starts from a file has
        for it.
      section: of a configuration with the keys that the files tell.
    """

    task: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    of_run: tuple[str, ...] = ("bits", "num_heads")
    section: str = "model"


# By `interop.entries.kind_of`. Neck and heads have float weights, and their neurons see a quarter.
KINDS = {
    "classifier": Published(  # ImageNet, its short side scaled to 256.
        task="classification",
        data={"image_size": (224, 224), "eval_crop_ratio": 0.875, "source": "folder"},
        model={},
    ),
    "segmenter": Published(  # ADE20K, the short side scaled to 512.
        task="semantic_segmentation",
        data={"image_size": (512, 512), "short_side": 512, "long_side": 2048, "source": "ade20k"},
        model={"bits_rules": (("(fpn|seg_head)/.*", 32),), "neuron_input_gain": PUBLISHED_GAIN},
    ),
    "detector": Published(  # COCO, within 800x1333.
        task="detection",
        data={
            "image_size": (800, 1344),
            "short_side": 800,
            "long_side": 1333,
            "buckets": ((800, 1344), (1344, 800)),
            "source": "coco",
        },
        model={
            "bits_rules": (("(det_fpn|rpn|box_head|mask_head)/.*", 32),),
            "neuron_input_gain": PUBLISHED_GAIN,
            "geometry": "published",
        },
    ),
    "SpikingResformer": Published(  # ImageNet, its short side scaled to 235.
        task="classification",
        data={"image_size": (224, 224), "eval_crop_ratio": 0.95, "source": "folder"},
        model={"timesteps": 4},
        of_run=("timesteps",),
        section="resformer",
    ),
}
# Of a SpikingResformer for small images: CIFAR-10, as it is.
CIFAR = {
    "image_size": (32, 32),
    "eval_crop_ratio": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
}


class Described(NamedTuple):
    """The network that the tensors of a file are said to be of.

    Attributes:
      kind: one of `KINDS`.
      told: fields of it that names and shapes tell.
      config, task, classes: of it.
    """

    kind: str
    told: Mapping[str, Any]
    config: ml_collections.ConfigDict
    task: Task
    classes: Classes


def described(label: str, tensors: Mapping[str, Any], fields: Mapping[str, Any]) -> Described:
    """The network that arrays by PyTorch name are of, by their names and shapes; nothing of it is computed.

    Args:
      label: what the tensors are called in errors.
      tensors: of `interop.torch_file.load`.
      fields: as of `of_published`.

    Raises:
      UserError: they are of another network, or it has no such field.
    """
    found, outputs, kind = fields_of(label, tensors), class_count(label, tensors), str(kind_of(tensors))
    found.pop("num_classes", None)
    config = published_config(kind, {**found, **fields})
    classes = Classes(where=f"the network in {label}", outputs=outputs, names=None)
    task = task_factory(config.task.name).build(config, classes.shown)
    return Described(kind, found, config, task, classes)


def of_published(
    path: str | os.PathLike[str],
    fields: Mapping[str, Any] | None = None,
    *,
    ema: bool = False,
    run: ml_collections.ConfigDict | None = None,
) -> Network:
    """The network of a published checkpoint.

    Args:
      path: the `.pth` file.
      fields: keys of `config.model`, of a SpikingResformer of `config.resformer` as well, that are not those
        of the file or of `KINDS`.
      ema: take the moving average of the weights.
      run: configuration of a run that starts from it.

    Raises:
      UserError: the file cannot be read or is of another network, or has no such field.
    """
    label, tensors = os.fspath(path), load(path, ema=ema)
    given = {}
    if run is not None and (kind := kind_of(tensors)) in KINDS:
        given = {name: run.model[name] for name in KINDS[kind].of_run}
    return with_weights(label, tensors, described(label, tensors, {**given, **(fields or {})}), ema=ema)


def with_weights(label: str, tensors: Mapping[str, Any], of: Described, *, ema: bool = False) -> Network:
    """The described network with its weights; raises UserError where the tensors do not fit it."""
    return Network(
        where=label,
        config=of.config,
        task=of.task,
        variables=from_torch(of.task.model, tensors, label=label),
        classes=of.classes,
        origin={"file": os.path.basename(label), "ema": ema},
    )


def published_config(kind: str, fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The configuration of a published network of a kind; raises UserError for an unknown field.

    Args:
      kind: of `KINDS`.
      fields: keys of `config.model` and of the kind's own section, and "in_channels" of the images.
    """
    config, published = base_config().lock(), KINDS[kind]
    fields = {**published.model, **fields}
    channels = fields.pop("in_channels")
    config.task.name = published.task
    config.data.update(published.data)
    if fields.get("small_images"):
        config.data.update(CIFAR)
    config.data.channels = channels
    if channels != len(config.data.mean):  # ImageNet's normalisation says nothing of other inputs.
        config.data.mean, config.data.std = (0.0,), (1.0,)
    own = config[published.section]
    for name, value in fields.items():
        section = own if name in own else config.model
        if name not in section:
            known = [*own, *config.model]
            raise UserError(f"a network has no field {name!r}{nearest(name, known)}")
        try:
            section[name] = value
        except (TypeError, ValueError):
            expected = section.get_type(name).__name__
            raise UserError(f"{name}: expected {expected}, found {value!r}") from None
    check_config(config)
    return config
