"""Arrays of NumPy: .npy, a structured array of t, x, y and p; .npz, an array for each of them, as ESIM's.

Names and units are those of `columns`.
"""

import io
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from qsdt_jax.data.events.formats.columns import fields_of, recording_of
from qsdt_jax.data.events.limits import check_unpacked
from qsdt_jax.data.events.record import Recording
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

# What NumPy writes. Other methods are not bounded: zipfile unpacks 4 kB of bzip2 to gigabytes at once.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What NumPy and zipfile make of files that are damaged, or no arrays.
ERRORS = (
    *(ValueError, TypeError, OSError, EOFError, LookupError, MemoryError, SyntaxError, OverflowError),
    *(NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
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
            members = archive.infolist()
    except ERRORS:
        found = kind_of(data) or "no zip archive, or cut off"
        raise CorruptRecord(f"{name}: is {found}; expected an archive of NumPy with t, x, y and p") from None
    if any(member.compress_type not in METHODS for member in members):
        raise CorruptRecord(f"{name}: is compressed by another method than the archives of NumPy, by Deflate")
    check_unpacked(sum(member.file_size for member in members), len(data), name)
    archive = _loaded(data, name, "an archive of NumPy")
    if isinstance(archive, np.ndarray):
        raise CorruptRecord(f"{name}: is an array of NumPy; expected an archive with t, x, y and p")
    try:
        columns = {said: archive[said] for said in fields_of(archive.files, name)}
    except ERRORS as error:
        raise CorruptRecord(f"{name}: cannot be read as arrays ({_reason(error)})") from None
    return recording_of(columns, name)


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
