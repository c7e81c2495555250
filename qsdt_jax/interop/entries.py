"""Which entries of a PyTorch checkpoint are the weights, and what they are called without their wrappers."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from qsdt_jax.errors import UserError

# Where training scripts put the weights, and their moving average; the first that holds tensors counts.
_MODEL = ("model", "state_dict", "model_state_dict", "module", "net", "network")
_AVERAGE = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema", "model_ema_state_dict")
# Of averages that are a list of tensors in the order of the parameters, without names (torch_ema).
_LISTED = "shadow_params"
# Last parts of the names of buffers, which are no parameters: such a list leaves them out.
_BUFFERS = {
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "init_state",
    "signed",
    "firing_rate_x",
    "firing_rate_attn",
}
_DEEPEST = 3  # {"state_dict": {"model": {...}}} and no further.
# Names of modules that hold the whole network and compute nothing; stripped where all tensors have them.
_WRAPPERS = {"module", "model", "net", "network", "backbone", "online_model"}
# What a wrapper of any layer inserts, in the middle of names as well: torch.compile, FSDP, checkpointing.
_INSERTED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DISTRIBUTED = "module."
# First part of a name where weights and average share a mapping.
_AVERAGE_PARTS = {"ema_model", "model_ema", "module_ema", "ema_module", "ema"}
_COUNTERS = {"n_averaged", "num_updates", "decay", "initted", "step"}  # Of those who average.
_OF_SEGMENTERS = {"backbone", "neck", "decode_head"}
_OF_DETECTORS = {"backbone", "neck", "rpn_head", "roi_head"}
_OF_OTHERS = {"neck", "rpn_head", "roi_head", "bbox_head", "mask_head", "decode_head", "auxiliary_head"}
# The weights of the layer of classes by kind of network, and their axes.
LAYERS_OF_CLASSES = {
    "classifier": ("head.weight", 2),
    "segmenter": ("decode_head.conv_seg.weight", 4),
    "detector": ("roi_head.mask_head.conv_logits.1.0.weight", 4),
    "SpikingResformer": ("classifier.weight", 2),
}
# The tensor that tells the kind. Many networks have a "classifier".
TELLING = {**LAYERS_OF_CLASSES, "SpikingResformer": ("prologue.0.weight", 4)}


class Chosen(NamedTuple):
    """Tensors by plain name, and what the user should know of the choice; None for nothing."""

    tensors: dict[str, Any]
    remark: str | None


def choose(content: Any, is_tensor: Callable[[Any], bool], *, ema: bool = False) -> Chosen:
    """The weights in the content of a checkpoint.

    Args:
      content: as unpickled.
      is_tensor: tells tensors from the rest.
      ema: take the moving average. Without, it is taken where there is nothing else.

    Raises:
      UserError: there are none, or two of one name; no moving average where one is asked for.
    """
    found = _tensors(content, is_tensor, _MODEL) or _own(content, is_tensor)
    average = _tensors(content, is_tensor, _AVERAGE)
    place = next((f"entry {key!r}" for key in _AVERAGE if isinstance(content, dict) and key in content), "")
    found, beside = _parted(found)
    if not average and beside:
        average, place = beside, "names that begin with ema"
    listed = None if average else _listed(content, is_tensor)
    if listed:
        place = f"entry {listed[0]!r}"
    if ema:
        if listed:
            average = _named(*listed, found)
        if not average:
            raise UserError("no moving average of the weights is in it; leave ema=True")
        return Chosen(plain_names(average), None)
    if found:
        beside_it = (
            f"a moving average is beside the weights ({place}); ema=True takes it"
            if average or listed
            else None
        )
        return Chosen(plain_names(found), beside_it)
    if average:
        return Chosen(plain_names(average), f"it holds only a moving average ({place}), which is taken")
    raise UserError(
        f"expected tensors by name, bare or in an entry 'model' or 'state_dict'; found {_what(content)}"
    )


def plain_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping under the names that the network itself gives; raises UserError if two become one."""
    names = {name: _INSERTED.sub("", name) for name in tensors}
    names = {name: plain.removeprefix(_DISTRIBUTED) for name, plain in names.items()}
    while names:
        firsts = {plain.partition(".")[0] for plain in names.values()}
        if len(firsts) > 1 or not firsts <= _WRAPPERS or not all("." in plain for plain in names.values()):
            break
        names = {name: plain.partition(".")[2] for name, plain in names.items()}
    before: dict[str, str] = {}
    for name, plain in names.items():
        if plain in before:
            one, other = sorted((before[plain], name), key=len)
            raise UserError(f"the names hold both {one!r} and {other!r}; expected one of them")
        before[plain] = name
    return {plain: tensors[name] for plain, name in before.items()}


def kind_of(tensors: Mapping[str, Any]) -> str | None:
    """The kind of network that has arrays of these names: one of `TELLING`, or None."""
    for kind, (name, axes) in TELLING.items():
        if name in tensors and tensors[name].ndim == axes:
            return kind
    return None


def described(names: Mapping[str, Any]) -> str:
    """What a file is, by the names of its tensors, if not this network."""
    firsts = {name.partition(".")[0] for name in names}
    if firsts == _OF_SEGMENTERS:
        kind = "another segmenter, or this one without its head"
    elif firsts == _OF_DETECTORS:
        kind = "another detector, or this one without some of its heads"
    elif firsts & _OF_OTHERS:
        kind = "a detector or another segmenter, of which nothing is read"
    elif any("lora_" in name for name in names):
        kind = "an adapter without the network that it adapts"
    elif firsts & {"block3", "downsample1_1"}:
        kind = "this network without its head"
    else:
        kind = "another network; names here are like block3.0.mlp.fc1_conv.weight"
    shown = ", ".join(list(names)[:3])
    return f"{len(names)} tensors ({shown}{', ...' if len(names) > 3 else ''}), as of {kind}"


def _own(content: Any, is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {}
    return {k: v for k, v in content.items() if isinstance(k, str) and is_tensor(v)}


def _tensors(
    content: Any, is_tensor: Callable[[Any], bool], keys: tuple[str, ...], depth: int = _DEEPEST
) -> dict[str, Any]:
    """Those of the first of some entries that holds any, itself or in such an entry of its own."""
    if not isinstance(content, dict) or not depth:
        return {}
    for key in keys:
        inside = content.get(key)
        found = _tensors(inside, is_tensor, _MODEL, depth - 1) or _own(inside, is_tensor)
        if found:
            return found
    return {}


def _listed(content: Any, is_tensor: Callable[[Any], bool]) -> tuple[str, list[Any]] | None:
    """The entry that holds an average as a list of tensors, and the list."""
    if not isinstance(content, dict):
        return None
    for key in _AVERAGE:
        inside = content.get(key)
        listed = inside.get(_LISTED) if isinstance(inside, dict) else inside
        if isinstance(listed, list | tuple) and listed and all(map(is_tensor, listed)):
            return key, list(listed)
    return None


def _named(key: str, listed: list[Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """A list of averages under the names of the parameters beside it, whose buffers it shares.

    Raises:
      UserError: the parameters beside it are not as many, or of other shapes.
    """
    names = [name for name in weights if name.rpartition(".")[2] not in _BUFFERS]
    if [weights[name].shape for name in names] != [tensor.shape for tensor in listed]:
        raise UserError(
            f"entry {key!r} is a list of {len(listed)} tensors without names, which are not the "
            f"{len(names)} parameters beside it in their order; expected an average by name"
        )
    return {**weights, **dict(zip(names, listed, strict=True))}


def _parted(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights, and the average that shares their mapping, without the counters of who averages."""
    weights, average = {}, {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if first in _AVERAGE_PARTS and rest:
            average[rest] = tensor
        elif name not in _COUNTERS or tensor.shape != ():
            weights[name] = tensor
    return weights, average


def _what(content: Any) -> str:
    if not isinstance(content, dict):
        return "no mapping"
    if {"state", "param_groups"} <= content.keys():
        return "the state of an optimiser alone ('state', 'param_groups')"
    return "the entries " + ", ".join(repr(key)[:40] for key in list(content)[:5])
