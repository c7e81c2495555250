"""Columns of events under the names and in the units that simulators and tools give them.

Times that have a fraction are seconds, as v2e and the text files of the RPG have them; whole ones are
microseconds, unless the column says its unit (`timestamp_ns`). Whole nanoseconds under a plain name, as the
files of esim_torch have them, pass for microseconds: a thousand times too long, which changes no frame, since
frames hold equal counts or equal shares of the whole duration.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from qsdt_jax.data.events.limits import check_count
from qsdt_jax.data.events.record import FIELDS, Recording, recorded
from qsdt_jax.errors import CorruptRecord

NAMES = {
    **dict.fromkeys(("t", "ts", "time", "times", "timestamp", "timestamps"), "t"),
    **dict.fromkeys(("x", "x_pos", "col", "column"), "x"),
    **dict.fromkeys(("y", "y_pos", "row"), "y"),
    **dict.fromkeys(("p", "pol", "polarity", "polarities"), "p"),
}
PER_MICROSECOND = {"s": 1e-6, "ms": 1e-3, "us": 1.0, "ns": 1e3}
KINDS = "iufb"  # Of the types of columns, as `np.dtype.kind` tells them.
EXACT = 2**53  # Whole numbers up to here are exact in float64.


class Field(NamedTuple):
    """What a column holds: a field of events, and the unit where its name says one."""

    field: str
    unit: str | None


def fields_of(names: Iterable[str], name: str) -> dict[str, Field]:
    """The columns to read, by the names that they have in a file, in its order.

    Args:
      names: of all columns, whatever their capitals; others than `NAMES` are passed over.
      name: of the stream, for messages.

    Raises:
      CorruptRecord: a column is missing, or there twice.
    """
    names = list(map(str, names))
    found: dict[str, Field] = {}
    for said in names:
        plain, _, suffix = said.strip().lower().rpartition("_")
        timed = NAMES.get(plain) == "t" and suffix in PER_MICROSECOND
        field = "t" if timed else NAMES.get(said.strip().lower())
        if field is None:
            continue
        if field in {known.field for known in found.values()}:
            raise CorruptRecord(f"{name}: has two columns of {field}; expected one each of t, x, y and p")
        found[said] = Field(field, suffix if timed else None)
    there = {known.field for known in found.values()}
    if missing := [field for field in FIELDS if field not in there]:
        told = ", ".join(names) or "nothing"
        raise CorruptRecord(
            f"{name}: has no {', '.join(missing)}; expected columns t, x, y and p; found {told[:80]}"
        )
    return found


def recording_of(
    columns: Mapping[str, np.ndarray],
    name: str,
    sensor_size: tuple[int, int] | None = None,
    *,
    seconds: bool = False,
) -> Recording:
    """A recording of columns by their names, see `fields_of`.

    Args:
      columns: (N,) each; numbers of any type, whole ones but for the time.
      name: of the stream, for messages.
      sensor_size: (height, width) in pixels, where it is known.
      seconds: whether times are seconds also where all of them are whole.

    Raises:
      CorruptRecord: a column that is missing, there twice or of no whole numbers; what is no stream.
    """
    fields = fields_of(columns, name)
    found = {known.field: np.asarray(columns[said]) for said, known in fields.items()}
    unit = next(known.unit for known in fields.values() if known.field == "t")
    for field, column in found.items():
        if column.ndim != 1 or column.dtype.kind not in KINDS:
            raise CorruptRecord(
                f"{name}: {field} is {column.dtype} {column.shape}; expected numbers, one for each event"
            )
        check_count(len(column), name)
    found["t"] = _microseconds(found["t"], unit, seconds, name)
    whole = {field: _whole(column, field, name) for field, column in found.items()}
    return recorded(whole, sensor_size, name)


def _microseconds(times: np.ndarray, unit: str | None, seconds: bool, name: str) -> np.ndarray:
    if times.dtype.kind in "iu" and unit in (None, "us"):
        return times
    times = _float64(times)
    if not np.isfinite(times).all():
        raise CorruptRecord(f"{name}: has times that are no numbers")
    if unit is None:
        unit = "s" if seconds or (times != np.rint(times)).any() else "us"
    with np.errstate(over="ignore"):
        return np.rint(times / PER_MICROSECOND[unit])


def _whole(column: np.ndarray, field: str, name: str) -> np.ndarray:
    """The column in whole numbers; raises CorruptRecord where it has others."""
    if column.dtype.kind != "f":
        return column
    column = _float64(column)
    wrong = ~(np.abs(column) < EXACT) | (column != np.rint(column))
    if wrong.any():
        found = column[wrong][0]
        raise CorruptRecord(f"{name}: has the {field} {found:g}; expected whole numbers below 2^53")
    return column.astype(np.int64)


def _float64(column: np.ndarray) -> np.ndarray:
    """In this type `EXACT` can be told; what is too large becomes infinite, without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return column.astype(np.float64)
