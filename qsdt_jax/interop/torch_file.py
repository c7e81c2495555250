"""Reads the tensors of a PyTorch checkpoint (`.pth`) without PyTorch and without running its code.

The file is a zip archive of a pickle (`torch_pickle`) and one uncompressed entry of raw elements per storage.
"""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from qsdt_jax.errors import UserError
from qsdt_jax.interop.torch_pickle import Storage, Tensor, read_pickle

_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # The pickled magic number.
_DDP_PREFIX = "module."
_MODEL_KEYS = ("model", "state_dict")  # Of the published code, and of timm.


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of the entry `model` or `state_dict`, or of the file itself where it is a bare mapping.

    Args:
      path: a file of `torch.save` (PyTorch 1.6 or newer). The prefix `module.` that distributed training
        puts before names is removed. All else in the file (optimiser, arguments) is left unread.

    Returns:
      Arrays by PyTorch name, read-only and strided as in the file; tensors of one storage share memory.

    Raises:
      UserError: the file is missing, damaged, of another format, holds no tensors, or names code.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_LEGACY_START))
            if not start.startswith(b"PK"):
                raise UserError(_not_a_zip(start))
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a PyTorch checkpoint (.pth)") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a PyTorch checkpoint (.pth)") from None
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        reason = ascii(str(error))[1:-1][:120]
        raise UserError(f"{path}: damaged or cut off ({reason}); fetch the file again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def without_ddp_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with `module.` removed from the start of names; raises UserError if two become one."""
    plain = {name.removeprefix(_DDP_PREFIX): value for name, value in tensors.items()}
    if len(plain) != len(tensors):
        twice = next(name for name in tensors if _DDP_PREFIX + name in tensors)
        raise UserError(f"the names hold both {twice!r} and {_DDP_PREFIX + twice!r}; expected one of them")
    return plain


def _not_a_zip(start: bytes) -> str:
    if start == _LEGACY_START:
        return (
            "in the format of PyTorch before 1.6; convert it with PyTorch: "
            "torch.save(torch.load('old.pth'), 'new.pth')"
        )
    return f"not a PyTorch checkpoint (begins with {start[:8]!r}; expected a zip archive)"


def _read_archive(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(
            f"not a PyTorch checkpoint: a zip archive with {len(pickles)} entries data.pkl, expected one"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in archive.namelist():  # Absent before PyTorch 2.1.
        order = _entry(archive, folder + "byteorder")
        if order != b"little":
            raise UserError(f"byte order {order[:8]!r}; only b'little' is read")
    tensors = without_ddp_prefix(_select_model(read_pickle(_entry(archive, pickles[0]))))
    storages: dict[str, bytes] = {}
    return {name: _array(name, t, archive, folder, storages) for name, t in tensors.items()}


def _select_model(content: Any) -> dict[str, Tensor]:
    found = "no mapping"
    if isinstance(content, dict):
        found = "the entries " + ", ".join(repr(key)[:40] for key in list(content)[:5])
        model = next((content[key] for key in _MODEL_KEYS if key in content), content)
        entries = model.items() if isinstance(model, dict) else ()
        tensors = {k: v for k, v in entries if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise UserError(f"expected tensors by name, bare or in an entry 'model' or 'state_dict'; found {found}")


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise UserError(f"damaged: entry {name!r} is missing; fetch the file again") from None
    # PyTorch never compresses, so nothing here can grow beyond the size of the file.
    if info.compress_type != zipfile.ZIP_STORED:
        raise UserError(f"entry {name!r} is compressed, which PyTorch's never are")
    return archive.read(info)


def _array(
    name: str, tensor: Tensor, archive: zipfile.ZipFile, folder: str, storages: dict[str, bytes]
) -> np.ndarray:
    """The tensor as a view of its storage, which is read once into `storages`."""
    storage, offset, shape, strides = tensor.storage, tensor.offset, tensor.shape, tensor.strides
    if not (
        isinstance(storage, Storage)
        and _are_naturals((offset,))
        and _are_naturals(shape)
        and _are_naturals(strides)
        and len(shape) == len(strides)
    ):
        raise UserError(f"damaged: tensor {name!r} has a negative or missing size, stride or offset")
    if storage.key not in storages:
        storages[storage.key] = _entry(archive, f"{folder}data/{storage.key}")
    data, itemsize = storages[storage.key], storage.dtype.itemsize
    held = min(storage.size, len(data) // itemsize)
    needed = 0
    if 0 not in shape:
        needed = offset + 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if needed > held:
        raise UserError(f"damaged: tensor {name!r} needs {needed} elements of a storage of {held}")
    try:
        if not needed:
            return np.empty(shape, storage.dtype)
        byte_strides = tuple(step * itemsize for step in strides)
        return np.ndarray(shape, storage.dtype, data, offset * itemsize, byte_strides)
    except ValueError as error:
        raise UserError(f"damaged: tensor {name!r} of shape {shape}: {error}") from None


def _are_naturals(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(v) is int and v >= 0 for v in values)
