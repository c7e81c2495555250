"""Events in HDF5, as v2e writes them: the data set "events" with a row t, x, y, p for each, in microseconds.

A group "events" with a data set for each column, as DSEC has it, and a data set of named columns are read as
well. Read by the library h5py, an optional requirement.
"""

import io
from typing import Any

import numpy as np

from qsdt_jax.data.events.formats.columns import recording_of
from qsdt_jax.data.events.formats.compression import require
from qsdt_jax.data.events.record import MOST_EVENTS, Recording
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

EVENTS = ("events", "event")  # The second is what v2e wrote in its first years.
COLUMNS = ("t", "x", "y", "p")


def read_hdf5(data: bytes, name: str) -> Recording:
    """The events of a file.

    Raises:
      CorruptRecord: no HDF5, one that is damaged, without such events, or what is no stream.
      UserError: h5py is not installed.
    """
    h5py = require("h5py", "h5py", name)
    if (found := kind_of(data)) != "HDF5":
        raise CorruptRecord(f"{name}: is {found or 'something else'}; expected HDF5")
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            columns = _columns(file, h5py.Dataset, name)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:100]
        raise CorruptRecord(f"{name}: cannot be read as HDF5 ({reason})") from None
    return recording_of(columns, name)


def _columns(file: Any, dataset: type, name: str) -> dict[str, np.ndarray]:
    found = next((file[key] for key in EVENTS if key in file), None)
    if found is None:
        there = ", ".join(file) or "nothing"
        raise CorruptRecord(f"{name}: has no data set 'events'; found {there[:80]}")
    if not isinstance(found, dataset):
        members = {key: member for key, member in found.items() if isinstance(member, dataset)}
        return {key: _read(member, name) for key, member in members.items()}
    if found.dtype.names is not None:
        array = _read(found, name)
        return {field: array[field] for field in array.dtype.names or ()}
    if found.ndim != 2 or found.shape[1] != len(COLUMNS):
        raise CorruptRecord(f"{name}: its 'events' are {found.shape}; expected rows of t, x, y and p")
    return dict(zip(COLUMNS, _read(found, name).T, strict=True))


def _read(found: Any, name: str) -> np.ndarray:
    """A data set, not before its size is known."""
    if found.size > len(COLUMNS) * MOST_EVENTS:
        raise CorruptRecord(f"{name}: has a data set of {found.size:,} numbers, more than a recording")
    return np.asarray(found[()])
