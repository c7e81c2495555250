"""Names and layouts of the published PyTorch checkpoints.

A path here is the one of a leaf below its collection, such as ("block3_0", "mlp", "fc1", "kernel").
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from qsdt_jax.detection.regions import BOX_SIDE
from qsdt_jax.errors import UserError
from qsdt_jax.interop import resformer, torch_file
from qsdt_jax.interop.entries import kind_of, plain_names
from qsdt_jax.interop.fit import Misfits, Shape, check_fit, first, misfits_of
from qsdt_jax.interop.layout import to_flax_layout, to_torch_layout
from qsdt_jax.models import Classifier, MaskRCNN, Segmenter, SpikingResformer
from qsdt_jax.models.shapes import variable_shapes

Path = tuple[str, ...]
Network = Classifier | Segmenter | MaskRCNN | SpikingResformer
PUBLISHED_GAIN = (
    0.25  # On the input of the neurons in neck and heads of the published segmenter and detector.
)


def _scale_head(branch: str, unit: str, layer: str) -> str:
    """Of a unit of the segmenter's head: in the published lists each second entry is an enlargement."""
    return f"decode_head/scale_heads/{branch}/{2 * int(unit)}/{1 if layer == 'conv' else 2}/"


# Applied in turn to the path joined by "/".
_RENAMES = (
    (r"^conv_block(\d_\d)/", r"ConvBlock\1/0/"),
    (r"^block(\d)_(\d+)/", r"block\1/\2/"),
    (r"^(downsample\w+)/(conv|bn)/", r"\1/encode_\2/"),
    (r"/sepconv/", r"/Conv/"),
    (r"/(\w+)_repconv/conv1/", r"/\1_conv/0/body/0/"),
    (r"/(\w+)_repconv/bn1/", r"/\1_conv/0/body/1/bn/"),
    (r"/(\w+)_repconv/dwconv/", r"/\1_conv/0/body/2/0/"),
    (r"/(\w+)_repconv/conv2/", r"/\1_conv/0/body/2/1/"),
    (r"/(\w+)_repconv/bn2/", r"/\1_conv/0/body/2/2/"),
    (r"/attn/(\w+)_bn/", r"/attn/\1_conv/1/"),
    (r"/mlp/fc(\d)/", r"/mlp/fc\1_conv/"),
    (r"/mlp/bn(\d)/", r"/mlp/fc\1_bn/"),
    (r"^fpn/lateral(\d)/conv/", r"neck/lateral_convs/\1/0/"),
    (r"^fpn/lateral(\d)/bn/", r"neck/lateral_convs/\1/1/"),
    (r"^fpn/output(\d)/conv/", r"neck/fpn_convs/\1/0/"),
    (r"^fpn/output(\d)/bn/", r"neck/fpn_convs/\1/1/"),
    (r"^seg_head/branch(\d)_(\d)/(conv|bn)/", lambda found: _scale_head(*found.groups())),
    (r"^seg_head/classifier/", r"decode_head/conv_seg/"),
    (r"^head_dist/", r"head_kd/"),
    (r"^det_fpn/lateral(\d)/conv/", r"neck/lateral_convs/\1/1/0/conv/"),
    (r"^det_fpn/output(\d)/conv/", r"neck/fpn_convs/\1/1/0/conv/"),
    (r"^rpn/conv/conv/", r"rpn_head/rpn_conv/1/0/"),
    (r"^rpn/score/", r"rpn_head/rpn_cls/1/0/"),
    (r"^rpn/delta/", r"rpn_head/rpn_reg/1/0/"),
    (r"^box_head/fc1/", r"roi_head/bbox_head/shared_fcs/0/1/0/"),
    (r"^box_head/fc2/", r"roi_head/bbox_head/shared_fcs/1/1/0/"),
    (r"^box_head/class/", r"roi_head/bbox_head/fc_cls/"),
    (r"^box_head/box/", r"roi_head/bbox_head/fc_reg/"),
    (r"^mask_head/conv(\d)/conv/", r"roi_head/mask_head/convs/\1/1/0/conv/"),
    (r"^mask_head/upsample/(conv/)?", r"roi_head/mask_head/upsample/1/0/"),
    (r"^mask_head/classifier/", r"roi_head/mask_head/conv_logits/1/0/"),
    (r"/(kernel|scale)$", r"/weight"),
    (r"/step_size$", r"/alpha"),
    (r"/(mean|var)$", r"/running_\1"),
)

# Of a segmenter and of a detector, besides the backbone.
_DENSE_PARTS = (*Segmenter.PARTS.beside, *MaskRCNN.PARTS.beside)

_UPSAMPLE = ("mask_head", "upsample", "conv")  # A 1x1 product here, whose outputs are the four pixels.
_OF_PIXELS = ("box_head", "fc1")  # Inputs are (pixel, channel) here, (channel, pixel) there.

# Entries of the published files that compute nothing: counters, flags, and the quantiser of activations,
# in whose place are spikes.
_DEAD = re.compile(
    r"(?P<layer>.+?)\.(num_batches_tracked|(act\.)?(init_state|signed)|act\.(alpha|zero_point))"
)


def torch_name(flax_path: Path) -> str:
    """The PyTorch name of a parameter or running statistic, such as "block3.0.mlp.fc1_conv.weight".

    Raises:
      UserError: the leaf belongs to `rectify="norm"`, which the published code does not have.
    """
    name = "/".join(flax_path)
    if "_rectify/" in name:
        raise UserError(
            f"the published files have no place for {name}; only models with rectify='bn' convert"
        )
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name.replace("/", ".")


def _torch_names(paths: Iterable[Path]) -> dict[str, Path]:
    """The leaf of each PyTorch name; paths with their collection.

    A segmenter and a detector have their backbone's tensors under "backbone.", a classifier has them beside
    its head. SpikingResformer has names of its own, see `interop.resformer`.
    """
    paths = list(paths)
    if any(path[1] == "stem" for path in paths):
        return {resformer.torch_name(path[1:]): path for path in paths}
    dense = any(path[1] in _DENSE_PARTS for path in paths)
    return {
        ("backbone." if dense and path[1] not in _DENSE_PARTS else "") + torch_name(path[1:]): path
        for path in paths
    }


def from_torch(
    model: Network,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    ema: bool = False,
    label: str = "the mapping",
) -> dict[str, Any]:
    """The variables of a model from a published checkpoint.

    A model without step sizes (1 or 32 bits) takes the float weights and leaves the file's step sizes
    aside. That is a start for training at these bits, not the network of the file. Weights trained at
    other bits load without a complaint too, since the file does not say at how many it was trained.

    The published segmenter computes what it does with `neuron_input_gain=0.25`, which the file does not say
    either, and with float weights in neck and head. The published detector does with `neuron_input_gain=0.25`
    and `geometry="published"`.

    Args:
      model: gives names, shapes and types of what is expected.
      source: a `.pth` file, or arrays by PyTorch name in PyTorch's layout (conv weights OIHW, dense OI).
      ema: of a file, take the moving average of the weights.
      label: what arrays are called in errors.

    Returns:
      {"params": ..., "batch_stats": ...} as from `model.init`, in the model's `param_dtype`.

    Raises:
      UserError: the file cannot be read, or holds another kind of network; tensors are missing, unknown or of
        another shape; or a step size is not positive.
    """
    if isinstance(source, Mapping):
        tensors = plain_names(source)
    else:
        label, tensors = os.fspath(source), torch_file.load(source, ema=ema)
    kind, found = _kind(model), kind_of(tensors)
    if found not in (kind, None):
        raise UserError(
            f"{label} holds a {found}, but the network described by the configuration is a {kind}"
        )
    leaves = _leaves(model)
    arrays = _living(leaves, tensors)
    check_fit(label, _torch_shapes(leaves), _shapes(arrays))
    _check_step_sizes(label, arrays)
    variables = {
        path: jnp.array(_from_published(path, arrays[name]).astype(leaf.dtype))
        for name, (path, leaf) in leaves.items()
    }
    return unflatten_dict(variables)


def misfits(model: Network, tensors: Mapping[str, Any]) -> Misfits:
    """What is missing, unknown or of another shape in arrays by PyTorch name, as `from_torch` takes them.

    Entries that compute nothing, such as counters of batches, are left out.
    """
    leaves = _leaves(model)
    return misfits_of(_torch_shapes(leaves), _shapes(_living(leaves, plain_names(tensors))))


def differences(model: Network) -> list[str]:
    """Lines on what a network does otherwise than the published one with the same weights, of a detector."""
    if not isinstance(model, MaskRCNN):
        return []
    told = []
    if model.geometry != "published":
        told.append(
            "neck.fpn_convs.3 (det_fpn/output3 here): trained with stride 1, which is 2 here; that of "
            'the file has model.geometry="published"'
        )
    if model.neuron_input_gain != PUBLISHED_GAIN:
        told.append(
            f"neurons of neck and heads: those of the file have model.neuron_input_gain={PUBLISHED_GAIN}, "
            f"here it is {model.neuron_input_gain}"
        )
    return told


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: arrays by PyTorch name and in PyTorch's layout, types unchanged.

    The entries that `from_torch` ignores are not written. To load the result into the published code use
    `strict=False`, and set the flags `init_state` to 1 before training on, else the step sizes start anew.

    Args:
      variables: the tree of `model.init`, or of the same structure (gradients under "params").

    Raises:
      UserError: the model has `rectify="norm"`.
    """
    leaves = flatten_dict(variables)
    return {
        name: np.array(_to_published(path, np.asarray(leaves[path])), order="C")
        for name, path in _torch_names(leaves).items()
    }


def _leaves(model: Network) -> dict[str, tuple[Path, Any]]:
    """Path, with its shape and type, of each variable of a network by PyTorch name."""
    expected = cast(Mapping[Path, Any], flatten_dict(variable_shapes(model)))
    return {name: (path, expected[path]) for name, path in _torch_names(expected).items()}


def _living(leaves: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a file without those that compute nothing."""
    return {
        name: np.asarray(value)
        for name, value in tensors.items()
        if name in leaves or not _is_dead(name, leaves)
    }


def _torch_shapes(leaves: Mapping[str, tuple[Path, Any]]) -> dict[str, Shape]:
    return {name: _torch_shape(path, leaf.shape) for name, (path, leaf) in leaves.items()}


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    return {name: array.shape for name, array in arrays.items()}


def _kind(model: Network) -> str:
    match model:
        case Segmenter():
            return "segmenter"
        case MaskRCNN():
            return "detector"
        case SpikingResformer():
            return "SpikingResformer"
    return "classifier"


def _is_pointwise_1d(path: Path) -> bool:
    """Whether the published code has a Conv1d, weights (O, I, 1), for this 1x1 convolution."""
    return path[-3:-1] in (("mlp", "fc1"), ("mlp", "fc2"))


def _to_published(path: Path, array: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return resformer.to_published(path, array)
    if path[-4:-1] == _UPSAMPLE:
        array = array.reshape(array.shape[2], 2, 2, -1)
        return array.transpose(0, 3, 1, 2)  # Of a transposed convolution (I, O, 2, 2).
    if path[-3:-1] == _OF_PIXELS:
        array = array.reshape(BOX_SIDE**2, -1, array.shape[-1]).swapaxes(0, 1).reshape(array.shape)
    array = to_torch_layout(array)
    return array[..., 0] if _is_pointwise_1d(path) else array


def _from_published(path: Path, array: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return resformer.from_published(path, array)
    if path[-4:-1] == _UPSAMPLE:
        return array.transpose(0, 2, 3, 1).reshape(1, 1, array.shape[0], -1)
    array = to_flax_layout(array[..., None] if _is_pointwise_1d(path) else array)
    if path[-3:-1] == _OF_PIXELS:
        array = array.reshape(-1, BOX_SIDE**2, array.shape[-1]).swapaxes(0, 1).reshape(array.shape)
    return array


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_published(path, np.broadcast_to(0.0, shape)).shape


def _is_dead(name: str, leaves: Mapping[str, Any]) -> bool:
    """Whether an entry that the model lacks changes nothing; it must belong to a layer of the model."""
    if match := _DEAD.fullmatch(name):
        return f"{match['layer']}.weight" in leaves
    layer, _, last = name.rpartition(".")
    return last == "alpha" and f"{layer}.weight" in leaves and not _has_step_sizes(leaves)


def _has_step_sizes(leaves: Mapping[str, Any]) -> bool:
    return any(name.endswith(".alpha") for name in leaves)


def _check_step_sizes(label: str, arrays: dict[str, np.ndarray]) -> None:
    bad = [k for k, array in arrays.items() if k.endswith(".alpha") and not np.all(array > 0)]
    if bad:
        raise UserError(f"{label}: step sizes must be positive; found others in {first(bad)}")
