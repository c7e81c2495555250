"""Names and shapes of the published checkpoints of SpikingResformer, and the fields that they tell."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from qsdt_jax.errors import UserError

Path = tuple[str, ...]
# Modules of ours at the top of the network.
_TOP = re.compile(r"stem|head|downsample([23])|stage([123])_(dssa|gwffn)(\d+)")
_INSIDE: Mapping[str, Mapping[str, str]] = {
    "downsample": {"neuron": "activation", "conv": "conv", "bn": "norm.bn"},
    "stem": {"conv": "0", "bn": "1.bn"},
    "dssa": {
        "neuron": "activation_in",
        "patch_conv": "W",
        "patch_bn": "norm.bn",
        "attn_neuron": "activation_attn",
        "out_neuron": "activation_out",
        "proj_conv": "Wproj",
        "proj_bn": "norm_proj.bn",
        "rate_x": "firing_rate_x",
        "rate_attn": "firing_rate_attn",
    },
    "gwffn": {
        "neuron1": "up.0",
        "up": "up.1",
        "bn1": "up.2.bn",
        "neuron2": "conv.0.0",
        "conv": "conv.0.1",
        "bn2": "conv.0.2.bn",
        "neuron3": "down.0",
        "down": "down.1",
        "bn3": "down.2.bn",
    },
}
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_RATES = ("rate_x", "rate_attn")


def torch_name(path: Path) -> str:
    """The PyTorch name of a parameter, a statistic or a module below its collection.

    ("stage1_dssa0", "patch_conv", "kernel") is "layers.0.0.W.weight". A published stage is one list, which
    stages 2 and 3 begin with their down-sampling.
    """
    top, *inside = path
    if (match := _TOP.fullmatch(top)) is None:
        raise ValueError(f"SpikingResformer has no module {top!r}")
    if top == "head":
        return ".".join(["classifier", *(_LEAVES[leaf] for leaf in inside)])
    if top == "stem":
        kind, place = "stem", "prologue"
    elif match[1]:
        kind, place = "downsample", f"layers.{int(match[1]) - 1}.0"
    else:
        kind, stage = match[3], int(match[2]) - 1
        place = f"layers.{stage}.{2 * int(match[4]) + (kind == 'gwffn') + (stage > 0)}"
    if not inside:
        return place
    module, *leaf = inside
    return ".".join([place, _INSIDE[kind][module], *(_LEAVES.get(name, name) for name in leaf)])


def to_published(path: Path, array: np.ndarray) -> np.ndarray:
    """A firing rate (h,) as published, (1, 1, h, 1, 1); other arrays as they are."""
    return array.reshape(1, 1, -1, 1, 1) if path[-1] in _RATES else array


def from_published(path: Path, array: np.ndarray) -> np.ndarray:
    """The inverse."""
    return array.reshape(-1) if path[-1] in _RATES else array


def fields_of(label: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `models.SpikingResformer` that names and shapes tell: all but time steps and image size.

    Args:
      label: what the tensors are called in errors.
      tensors: arrays by PyTorch name.

    Raises:
      UserError: they are of another network.
    """

    def shape(name: str, axes: int) -> tuple[int, ...]:
        found = np.shape(tensors[name]) if name in tensors else None
        if found is None or len(found) != axes or not all(found):
            raise UserError(
                f"{label} is no SpikingResformer: expected {name} of {axes} axes, "
                f"found {'no such tensor' if found is None else f'one of shape {found}'}"
            )
        return found

    attention = [torch_name((f"stage{i}_dssa0",)) for i in (1, 2, 3)]
    forward = torch_name(("stage1_gwffn0",))
    stem = shape("prologue.0.weight", 4)
    return {
        "channels": tuple(shape(f"{name}.Wproj.weight", 4)[0] for name in attention),
        "num_heads": tuple(math.prod(shape(f"{name}.firing_rate_x", 5)) for name in attention),
        "patches": tuple(shape(f"{name}.W.weight", 4)[2] for name in attention),
        "depths": tuple(
            sum(re.fullmatch(rf"layers\.{stage}\.\d+\.W\.weight", name) is not None for name in tensors)
            for stage in range(3)
        ),
        "group_size": shape(f"{forward}.conv.0.1.weight", 4)[1],
        "small_images": stem[2] == 3,
        "num_classes": shape("classifier.weight", 2)[0],
        "in_channels": stem[1],
        "learned_decay": f"{attention[0]}.activation_in.w" in tensors,
    }
