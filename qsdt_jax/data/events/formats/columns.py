"""Columns of events under the names and in the units that simulators and tools give them.

Times that have a fraction are seconds, as v2e and the text files of the RPG have them; whole ones are
microseconds, unless the column says its unit (`timestamp_ns`). Whole nanoseconds under a plain name, as the
files of esim_torch have them, pass for microseconds: a thousand times too long, which changes no frame, since
frames hold equal counts or equal shares of the whole duration.
"""

from collections.abc import Mapping

import numpy as np

from qsdt_jax.data.events.record import FIELDS, MOST_EVENTS, Recording, recorded
from qsdt_jax.errors import CorruptRecord

NAMES = {
    **dict.fromkeys(("t", "ts", "time", "times", "timestamp", "timestamps"), "t"),
    **dict.fromkeys(("x", "x_pos", "col", "column"), "x"),
    **dict.fromkeys(("y", "y_pos", "row"), "y"),
    **dict.fromkeys(("p", "pol", "polarity", "polarities"), "p"),
}
PER_MICROSECOND = {"s": 1e-6, "ms": 1e-3, "us": 1.0, "ns": 1e3}
EXACT = 2**53  # Whole numbers up to here are exact in float64.


def recording_of(
    columns: Mapping[str, np.ndarray],
    name: str,
    sensor_size: tuple[int, int] | None = None,
    *,
    seconds: bool = False,
) -> Recording:
    """A recording of columns by their names, whatever their capitals; others than `NAMES` are passed over.

    Args:
      columns: (N,) each; numbers of any type, whole ones but for the time.
      name: of the stream, for messages.
      sensor_size: (height, width) in pixels, where it is known.
      seconds: whether times are seconds also where all of them are whole.

    Raises:
      CorruptRecord: a column that is missing, there twice or of no whole numbers; what is no stream.
    """
    found: dict[str, np.ndarray] = {}
    unit = None
    for said, column in columns.items():
        plain, _, suffix = str(said).strip().lower().rpartition("_")
        timed = NAMES.get(plain) == "t" and suffix in PER_MICROSECOND
        field = "t" if timed else NAMES.get(str(said).strip().lower())
        if field is None:
            continue
        if field in found:
            raise CorruptRecord(f"{name}: has two columns of {field}; expected one each of t, x, y and p")
        found[field] = np.asarray(column)
        unit = suffix if timed else unit
    if missing := [field for field in FIELDS if field not in found]:
        there = ", ".join(map(str, columns)) or "nothing"
        raise CorruptRecord(
            f"{name}: has no {', '.join(missing)}; expected columns t, x, y and p; found {there[:80]}"
        )
    for field, column in found.items():
        if column.ndim != 1 or column.dtype.kind not in "iufb":
            raise CorruptRecord(
                f"{name}: {field} is {column.dtype} {column.shape}; expected numbers, one for each event"
            )
        if len(column) > MOST_EVENTS:
            raise CorruptRecord(f"{name}: has {len(column):,} events; expected at most {MOST_EVENTS:,}")
    found["t"] = _microseconds(found["t"], unit, seconds, name)
    whole = {field: _whole(column, field, name) for field, column in found.items()}
    return recorded(whole, sensor_size, name)


def _microseconds(times: np.ndarray, unit: str | None, seconds: bool, name: str) -> np.ndarray:
    if times.dtype.kind in "iu" and unit in (None, "us"):
        return times
    times = times.astype(np.float64)
    if not np.isfinite(times).all():
        raise CorruptRecord(f"{name}: has times that are no numbers")
    if unit is None:
        unit = "s" if seconds or (times != np.rint(times)).any() else "us"
    return np.rint(times / PER_MICROSECOND[unit])


def _whole(column: np.ndarray, field: str, name: str) -> np.ndarray:
    """The column in whole numbers; raises CorruptRecord where it has others."""
    if column.dtype.kind != "f":
        return column
    wrong = ~(np.abs(column) < EXACT) | (column != np.rint(column))
    if wrong.any():
        found = column[wrong][0]
        raise CorruptRecord(f"{name}: has the {field} {found:g}; expected whole numbers below 2^53")
    return column.astype(np.int64)
