"""Events in HDF5, as v2e writes them: the data set "events" with a row t, x, y, p for each, in microseconds.

A group "events" with a data set for each column, as DSEC has it (but the files of DSEC are compressed by
Blosc, which h5py alone cannot read), and a data set of named columns are read as well. Read by the library
h5py, an optional requirement.

Nothing is read that lies outside of the file, to which its links and its data sets may lead.
"""

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from qsdt_jax.data.events.formats.columns import KINDS, fields_of, recording_of
from qsdt_jax.data.events.libraries import require
from qsdt_jax.data.events.limits import check_unpacked
from qsdt_jax.data.events.record import Recording
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

EVENTS = ("events", "event")  # The second is what v2e wrote in its first years.
COLUMNS = ("t", "x", "y", "p")
# What h5py makes of files that are damaged.
ERRORS = (OSError, LookupError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError)


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
            columns = _columns(h5py, file, len(data), name)
    except ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        raise CorruptRecord(f"{name}: cannot be read as HDF5 ({reason})") from None
    return recording_of(columns, name)


def _columns(h5py: Any, file: Any, stored: int, name: str) -> dict[str, np.ndarray]:
    """The columns of the events of a file of `stored` bytes, by the names that they have there."""
    there = list(file)
    key = next((key for key in EVENTS if key in there), None)
    if key is None:
        told = ", ".join(there) or "nothing"
        raise CorruptRecord(f"{name}: has no data set 'events'; found {told[:80]}")
    found = _member(file, key, h5py, name)
    if isinstance(found, h5py.Group):
        members = {said: _data_set(found, said, h5py, name) for said in fields_of(list(found), name)}
        _check_types({said: member.dtype for said, member in members.items()}, name)
        _check_size(members.values(), stored, name)
        return {said: np.asarray(member[()]) for said, member in members.items()}
    rows = _data_set(file, key, h5py, name)
    _check_size([rows], stored, name)
    if rows.dtype.names is not None:
        fields = list(fields_of(rows.dtype.names, name))
        _check_types({field: rows.dtype[field] for field in fields}, name)
        array = rows.fields(fields)[()]
        return {field: array[field] for field in fields}
    if rows.ndim != 2 or rows.shape[1] != len(COLUMNS):
        raise CorruptRecord(f"{name}: its 'events' are {rows.shape}; expected rows of t, x, y and p")
    _check_types({key: rows.dtype}, name)
    return dict(zip(COLUMNS, np.asarray(rows[()]).T, strict=True))


def _member(group: Any, key: str, h5py: Any, name: str) -> Any:
    """A member that lies in the file itself, and is no way to another file."""
    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        raise CorruptRecord(f"{name}: its {key!r} is a link to elsewhere; expected the events themselves")
    return group[key]


def _data_set(group: Any, key: str, h5py: Any, name: str) -> Any:
    """A data set whose content lies in the file, packed by filters that are there; nothing is read yet."""
    found = _member(group, key, h5py, name)
    if not isinstance(found, h5py.Dataset):
        raise CorruptRecord(f"{name}: its {key!r} is no data set")
    # To open the source of a virtual data set can crash the library.
    if found.is_virtual or found.external:
        raise CorruptRecord(
            f"{name}: the content of its {key!r} lies in other files; expected it in this one"
        )
    made = found.id.get_create_plist()
    for code, _, _, said in (made.get_filter(i) for i in range(made.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            told = said.decode(errors="replace") or "unnamed"
            raise CorruptRecord(
                f"{name}: its {key!r} is packed by the filter {code} ({told!r}), which h5py does not have"
            )
    return found


def _check_types(types: Mapping[str, np.dtype], name: str) -> None:
    for key, dtype in types.items():
        if dtype.kind not in KINDS:
            raise CorruptRecord(f"{name}: {key} is {dtype}; expected numbers")


def _check_size(members: Iterable[Any], stored: int, name: str) -> None:
    """Refuses data sets that are too large together; a chunk may be larger than its data set."""
    bytes_of = (
        max(member.size, math.prod(member.chunks or ())) * member.dtype.itemsize for member in members
    )
    check_unpacked(sum(bytes_of), stored, name)
