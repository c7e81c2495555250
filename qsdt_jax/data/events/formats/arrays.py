"""Arrays of NumPy: .npy, a structured array of t, x, y and p; .npz, an array for each of them, as ESIM's.

Names and units are those of `columns`.
"""

import io
import zipfile
import zlib
from typing import Any

import numpy as np

from qsdt_jax.data.events.formats.columns import recording_of
from qsdt_jax.data.events.record import MOST_EVENTS, Recording
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

LARGEST = 32 * MOST_EVENTS  # Bytes that an archive may unpack to.
# What NumPy and zipfile make of files that are damaged, or no arrays.
ERRORS = (
    *(ValueError, OSError, EOFError, KeyError, MemoryError, SyntaxError, OverflowError),
    *(NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error),
)


def read_npy(data: bytes, name: str) -> Recording:
    """The events of a structured array.

    Raises:
      CorruptRecord: no file of NumPy, one that is cut off, an array without names, or what is no stream.
    """
    array = _loaded(data, name, "a structured array of NumPy")
    if not isinstance(array, np.ndarray) or array.dtype.names is None:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise CorruptRecord(f"{name}: expected a structured array of t, x, y and p; found {found}")
    return recording_of({field: array[field] for field in array.dtype.names}, name)


def read_npz(data: bytes, name: str) -> Recording:
    """The events of an archive with an array for each column.

    Raises:
      CorruptRecord: no archive of NumPy, one that is cut off or too large, or what is no stream.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        found = kind_of(data) or "no zip archive, or cut off"
        raise CorruptRecord(f"{name}: is {found}; expected an archive of NumPy with t, x, y and p") from None
    if size > LARGEST:
        raise CorruptRecord(f"{name}: unpacks to {size:,} bytes; expected at most {LARGEST:,}")
    archive = _loaded(data, name, "an archive of NumPy")
    if isinstance(archive, np.ndarray):
        raise CorruptRecord(f"{name}: is an array of NumPy; expected an archive with t, x, y and p")
    try:
        columns = {field: archive[field] for field in archive.files}
    except ERRORS as error:
        raise CorruptRecord(f"{name}: cannot be read as arrays ({_reason(error)})") from None
    return recording_of({k: v for k, v in columns.items() if isinstance(v, np.ndarray)}, name)


def _loaded(data: bytes, name: str, expected: str) -> Any:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except ERRORS as error:
        found = kind_of(data)
        if found and not data.startswith((b"\x93NUMPY", b"PK")):
            raise CorruptRecord(f"{name}: is {found}; expected {expected}") from None
        raise CorruptRecord(f"{name}: cannot be read as {expected} ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
