"""The sizes of a network, read off the shapes of a published checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

from qsdt_jax import bounds
from qsdt_jax.errors import UserError
from qsdt_jax.interop import resformer
from qsdt_jax.interop.entries import LAYERS_OF_CLASSES, TELLING, described, kind_of
from qsdt_jax.interop.published import torch_name
from qsdt_jax.models.classifier import DISTILLATION_HEAD
from qsdt_jax.models.sdtv2 import SDTV2


def class_count(label: str, tensors: Mapping[str, Any]) -> int:
    """The outputs of the layer of classes; raises UserError where there is none."""
    kind = kind_of(tensors)
    if kind is None:
        expected = " and no ".join(f"{name} of {axes} axes" for name, axes in TELLING.values())
        raise UserError(
            f"{label} is not of this network: it has no tensor {expected}; it has {described(tensors)}"
        )
    name, axes = LAYERS_OF_CLASSES[kind]
    if name not in tensors or tensors[name].ndim != axes:
        raise UserError(f"{label} is not of this network: it has no tensor {name} of {axes} axes")
    count = tensors[name].shape[0]
    if not 1 <= count <= bounds.CLASSES:
        raise UserError(f"{label} has {count:,} classes; expected 1 to {bounds.CLASSES:,}")
    return count


def fields_of(label: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `models.Backbone` that shapes tell: channels, depth, mlp_ratio, in_channels.

    Of a segmenter also "fpn_channels", of a detector "box_features" besides. The file says nothing of heads,
    bits, levels and time steps, except that a classifier without layer scales and step sizes is a
    Spike-driven Transformer V2, with all that `models.sdtv2` tells of it; "distillation_head" says of one
    that it has two heads. Of a SpikingResformer the fields are its own, see `interop.resformer`.

    Args:
      label: what the tensors are called in errors.
      tensors: arrays by PyTorch name.

    Raises:
      UserError: they are of another network.
    """

    class_count(label, tensors)
    kind = kind_of(tensors)
    if kind == "SpikingResformer":
        return resformer.fields_of(label, tensors)
    prefix = "" if kind == "classifier" else "backbone."

    def shape(*path: str, prefix: str = prefix) -> tuple[int, ...]:
        name = prefix + torch_name((*path, "kernel"))
        if name not in tensors or tensors[name].ndim < 2:
            raise UserError(
                f"{label} is not of this network: it has no tensor {name}; it has {described(tensors)}"
            )
        return tensors[name].shape

    parts = ("downsample1_2", "downsample2", "downsample3", "downsample4")
    channels = tuple(shape(part, "conv")[0] for part in parts)
    blocks = {match[0] for name in tensors if (match := re.match(rf"{prefix}block[34]\.\d+\.", name))}
    beside: dict[str, Any] = {}
    if kind == "classifier":
        beside = _of_classifier(tensors)
    elif kind == "segmenter":
        beside = {"fpn_channels": shape("fpn", "lateral0", "conv", prefix="")[0]}
    elif kind == "detector":
        beside = {
            "fpn_channels": shape("det_fpn", "lateral0", "conv", prefix="")[0],
            "box_features": shape("box_head", "fc1", prefix="")[0],
        }
    return {
        **beside,
        "channels": channels,
        "depth": len(blocks),
        "mlp_ratio": shape("block3_0", "mlp", "fc1")[0] // channels[2],
        "in_channels": shape("downsample1_1", "conv")[1],
    }


def _of_classifier(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What the names of a classifier's tensors tell besides its sizes."""
    told: dict[str, Any] = {}
    if not any(".layer_scale" in name or name.endswith(".alpha") for name in tensors):
        told |= SDTV2
    if torch_name((DISTILLATION_HEAD, "kernel")) in tensors:
        told["distillation_head"] = True
    return told
