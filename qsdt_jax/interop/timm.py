"""CAFormer weights from timm's files, by timm's names, without timm."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from qsdt_jax.errors import UserError
from qsdt_jax.interop import torch_file
from qsdt_jax.interop.entries import plain_names
from qsdt_jax.interop.fit import check_fit
from qsdt_jax.interop.layout import to_flax_layout, to_torch_layout
from qsdt_jax.models.caformer import CAFormer

HEAD = "head.fc.fc2.weight"  # (classes, features)


def read_timm(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` file, or of any other as a PyTorch checkpoint, by plain name.

    Raises:
      UserError: the file is missing, damaged or of another format.
    """
    if file.suffix != ".safetensors":
        return torch_file.load(file)
    try:
        return plain_names(load_file(file))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; expected timm's weights (.safetensors or .pth)") from None
    except SafetensorError as error:
        raise UserError(f"{file}: no safetensors file, or a damaged one ({error})") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None


def num_classes(label: str, tensors: dict[str, np.ndarray]) -> int:
    """Outputs of the head in a file; raises UserError where it has none."""
    head = tensors.get(HEAD)
    if head is None or head.ndim != 2:
        raise UserError(f"{label} is no CAFormer of timm: it has no tensor {HEAD} of two axes")
    return head.shape[0]


def caformer_variables(model: CAFormer, label: str, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The variables of a model from tensors in timm's names and PyTorch's layout.

    Args:
      model: gives names and shapes of what is expected.
      label: what the tensors were read from.
      tensors: conv weights OIHW, dense OI.

    Returns:
      {"params": ...} as from `model.init`, float32.

    Raises:
      UserError: tensors are missing, unknown or of another shape.
    """
    image = jax.ShapeDtypeStruct((1, 32, 32, model.in_channels), jnp.float32)
    expected: Any = jax.eval_shape(model.init, jax.random.key(0), image)
    leaves: Any = flatten_dict(expected)
    names: dict[tuple[str, ...], str] = {path: timm_name(path[1:]) for path in leaves}
    shapes = {
        names[path]: to_torch_layout(np.broadcast_to(0, leaf.shape)).shape for path, leaf in leaves.items()
    }
    check_fit(label, shapes, {name: array.shape for name, array in tensors.items()})
    return unflatten_dict(
        {path: jnp.asarray(to_flax_layout(tensors[name]).astype(np.float32)) for path, name in names.items()}
    )


def timm_name(path: tuple[str, ...]) -> str:
    """The name of a leaf below "params", such as "stages.2.blocks.0.token_mixer.qkv.weight"."""
    joined = ".".join(path)
    joined = re.sub(r"\b(stages|blocks)_(\d+)", r"\1.\2", joined)
    return re.sub(r"\.kernel$", ".weight", joined)
