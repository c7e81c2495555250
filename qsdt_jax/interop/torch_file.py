"""Reads the tensors of a PyTorch checkpoint (`.pth`) without PyTorch and without running its code.

The file is a zip archive of a pickle (`torch_pickle`) and one uncompressed entry of raw elements per storage.
"""

import math
import os
import zipfile
from typing import Any

import numpy as np

from qsdt_jax import bounds
from qsdt_jax.errors import UserError
from qsdt_jax.file_kinds import LOOKED_AT, kind_of
from qsdt_jax.interop.entries import choose
from qsdt_jax.interop.torch_pickle import Storage, Tensor, read_pickle
from qsdt_jax.progress import tell

_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # The pickled magic number.


def load(path: str | os.PathLike[str], *, ema: bool = False) -> dict[str, np.ndarray]:
    """The weights in a file: those of an entry like `model` or `state_dict`, or of a bare mapping.

    Args:
      path: a file of `torch.save` (PyTorch 1.6 or newer). What distributed training, compilation and the like
        put before names is removed (`entries`). All else in the file (optimiser, arguments) is left unread.
      ema: take their moving average; where one is there and not taken, or is all there is, stderr says so.

    Returns:
      Arrays by PyTorch name, read-only and strided as in the file; tensors of one storage share memory.

    Raises:
      UserError: the file is missing, damaged, of another format, holds no tensors, or names code.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(LOOKED_AT)
            if not start.startswith(b"PK"):
                raise UserError(_not_a_zip(start))
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive, os.path.getsize(path), path, ema)
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


def _not_a_zip(start: bytes) -> str:
    if start.startswith(_LEGACY_START):
        return (
            "in the format of PyTorch before 1.6; convert it with PyTorch: "
            "torch.save(torch.load('old.pth'), 'new.pth')"
        )
    if not start:
        return "not a PyTorch checkpoint: it has 0 bytes; fetch the file again"
    kind = kind_of(start)
    found = f"begins with {start[:8]!r}" + (f", {kind}" if kind else "")
    return f"not a PyTorch checkpoint ({found}; expected a zip archive)"


def _read_archive(
    archive: zipfile.ZipFile, size: int, path: str | os.PathLike[str], ema: bool
) -> dict[str, np.ndarray]:
    _check_sizes(archive, size)
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
    if folder + "constants.pkl" in archive.namelist():
        raise UserError(
            "a TorchScript program; save the weights alone: torch.save({'model': model.state_dict()}, path)"
        )
    content = read_pickle(_entry(archive, pickles[0]))
    tensors, remark = choose(content, lambda value: isinstance(value, Tensor), ema=ema)
    if remark is not None:
        tell(f"{path}: {remark}")
    storages: dict[str, bytes] = {}
    return {name: _array(name, t, archive, folder, storages) for name, t in tensors.items()}


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses entries that claim more than the file holds, before as much memory is asked for."""
    claimed = sum(info.compress_size for info in archive.infolist())
    if claimed > size:
        raise UserError(f"damaged: its entries claim {claimed:,} bytes of a file of {size:,}; fetch it again")


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
    if math.prod(shape) > bounds.ELEMENTS:
        raise UserError(f"damaged: tensor {name!r} has more than {bounds.ELEMENTS:,} elements")
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
