"""Event streams of a dynamic vision sensor, believed once their columns prove to be ones.

Every stream of others passes `as_events` before it is cast: whole numbers, pixels within the sensor,
polarities that are two. One that comes from a file passes `check_times` besides.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qsdt_jax import bounds
from qsdt_jax.errors import CorruptRecord, UserError

# Time in microseconds, column, row, polarity (1 for brighter).
EVENT = np.dtype([("t", "<u4"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
FIELDS = tuple(EVENT.names or ())
LARGEST_SENSOR = bounds.SIDE
SIDE_OF_A_BYTE = 256  # Coordinates of a sensor up to this size are stored in a byte.
LARGEST_TIME = 2**32 - 1

# A clock that overflows or is set back goes back once in a while; what is no recording goes back at every
# second step.
BACKWARD_SHARE = 1 / 4
# Ten times what the bus of a camera of this size carries. Times in milliseconds look a thousand times faster.
FASTEST = 20  # Events in a microsecond.
FREE_EVENTS = 1000  # May fall into one moment.


class Recording(NamedTuple):
    """What a file of events holds.

    Attributes:
      events: (N,) of dtype `EVENT`.
      sensor_size: (height, width) in pixels of the sensor, where the file or its format says it.
    """

    events: np.ndarray
    sensor_size: tuple[int, int] | None


def check_sensor(size: tuple[int, ...], what: str) -> tuple[int, int]:
    """The size (height, width) of a sensor; raises UserError where it is none, or larger than a stream holds.

    Args:
      size: in pixels.
      what: names the size in the message.
    """
    if len(size) != 2 or not all(1 <= side <= LARGEST_SENSOR for side in size):
        found = "x".join(map(str, size)) or "nothing"
        raise UserError(
            f"{what}: expected the height and the width of a sensor, 1 to {LARGEST_SENSOR} pixels; "
            f"found {found}"
        )
    height, width = size
    return height, width


def as_events(columns: Mapping[str, Any] | np.ndarray, sensor_size: tuple[int, int], name: str) -> np.ndarray:
    """A stream in our dtype; nothing is cast before it has proved to fit.

    Args:
      columns: t, x, y and p, each (N,), of any integer type: whole microseconds, columns and rows of the
        sensor from 0 on, and polarities that are 0 and 1, False and True, or -1 and 1 (1 for brighter). A
        structured array of these fields is one, too.
      sensor_size: (height, width) in pixels.
      name: of the stream, for messages.

    Returns:
      (N,) of dtype `EVENT`, in the order given.

    Raises:
      CorruptRecord: other types, ranges or lengths, or no events.
    """
    known = columns.dtype.names or () if isinstance(columns, np.ndarray) else columns
    if missing := [field for field in FIELDS if field not in known]:
        raise CorruptRecord(f"{name}: has no {', '.join(missing)}; expected events of t, x, y and p")
    arrays = {field: np.asarray(columns[field]) for field in FIELDS}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or arrays["t"].ndim != 1:
        found = ", ".join(f"{field} {array.shape}" for field, array in arrays.items())
        raise CorruptRecord(f"{name}: expected t, x, y and p of one length; found {found}")
    if not len(arrays["t"]):
        raise CorruptRecord(f"{name}: has no events")
    for field, array in arrays.items():
        check_type(field, array.dtype, name)
    arrays["p"] = _polarities(arrays["p"], name)
    check_within(arrays, sensor_size, name)
    first, last = int(arrays["t"].min()), int(arrays["t"].max())
    if first < 0 or last > LARGEST_TIME:
        raise CorruptRecord(
            f"{name}: has the times {first} to {last}; expected microseconds of 0 to {LARGEST_TIME}"
        )
    if isinstance(columns, np.ndarray) and columns.dtype == EVENT:
        return columns
    events = np.empty(len(arrays["t"]), EVENT)
    for field, array in arrays.items():
        events[field] = array
    return events


def check_type(field: str, dtype: Any, name: str) -> None:
    """Raises CorruptRecord where a column holds other than whole numbers, or the truth of a polarity."""
    kind = np.dtype(dtype).kind
    if kind in "iu" or (kind == "b" and field == "p"):
        return
    expected = "whole microseconds" if field == "t" else "whole numbers"
    raise CorruptRecord(f"{name}: {field} is {np.dtype(dtype)}; expected {expected}")


def check_within(
    events: Mapping[str, np.ndarray] | np.ndarray, sensor_size: tuple[int, int], name: str
) -> None:
    """Raises CorruptRecord for events beyond the (height, width) of the sensor."""
    for field, size in zip(("y", "x"), sensor_size, strict=True):
        for place in (int(events[field].min()), int(events[field].max())):
            if not 0 <= place < size:
                known = max(sensor_size) < LARGEST_SENSOR
                sensor = f"the sensor is {'x'.join(map(str, sensor_size))}" if known else "no sensor has it"
                raise CorruptRecord(f"{name}: has an event at {field} = {place}; {sensor}")


def check_times(times: np.ndarray, name: str) -> None:
    """Raises CorruptRecord for times that no recording in microseconds has: out of order, or too close.

    Args:
      times: (N,) whole numbers, N > 0, in the order of the recording.
      name: of the stream, for messages.
    """
    steps = len(times) - 1
    backward = int(np.count_nonzero(times[1:] < times[:-1]))
    if backward > 1 + BACKWARD_SHARE * steps:
        raise CorruptRecord(
            f"{name}: goes back in time at {backward:,} of {steps:,} steps; expected a recording in the "
            "order of time"
        )
    microseconds = int(times.max()) - int(times.min()) + 1
    if len(times) > FREE_EVENTS + FASTEST * microseconds:
        raise CorruptRecord(
            f"{name}: has {len(times):,} events in {microseconds:,} microseconds, more than a camera gives; "
            "expected times in microseconds"
        )


def recorded(columns: Mapping[str, np.ndarray], sensor_size: tuple[int, int] | None, name: str) -> Recording:
    """A recording whose clock begins anywhere: its times count from its earliest event.

    Args:
      columns: t, x, y and p as for `as_events`; times may be beyond 32 bits, as those since 1970 are.
      sensor_size: (height, width) in pixels, where it is known.
      name: of the stream, for messages.

    Raises:
      CorruptRecord: what is no stream, see `as_events` and `check_times`.
    """
    if len(times := columns["t"]):
        check_times(times, name)
        if times.dtype.kind == "i":  # The difference of two may take all bits of the unsigned type.
            since = (times.astype(np.int64) - np.int64(times.min())).view(np.uint64)
        else:
            since = times - times.min()
        columns = {**columns, "t": since}
    within = sensor_size or (LARGEST_SENSOR, LARGEST_SENSOR)
    return Recording(as_events(columns, within, name), sensor_size)


def upright(events: np.ndarray) -> np.ndarray:
    """A stream whose camera lay on its side: columns become rows, and rows columns."""
    turned = events.copy()
    turned["x"], turned["y"] = events["y"], events["x"]
    return turned


def stored_types(sensor_size: tuple[int, int]) -> dict[str, np.dtype]:
    """The types of the columns in which a data set stores the streams of a sensor of this size."""
    place = np.dtype(np.uint8 if max(sensor_size) <= SIDE_OF_A_BYTE else np.uint16)
    return {"t": np.dtype(np.uint32), "x": place, "y": place, "p": np.dtype(np.uint8)}


def as_columns(events: np.ndarray, sensor_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """One contiguous array for each field of a stream of dtype `EVENT`, as a data set stores them."""
    types = stored_types(sensor_size)
    return {field: np.ascontiguousarray(events[field], types[field]) for field in FIELDS}


def _polarities(polarities: np.ndarray, name: str) -> np.ndarray:
    """0 and 1, of polarities that are -1 and 1, 0 and 1, or truth."""
    if polarities.dtype.kind == "b":
        return polarities.astype(np.uint8)
    lowest, highest = int(polarities.min()), int(polarities.max())
    if lowest >= 0 and highest <= 1:
        return polarities
    if lowest == -1 and highest <= 1 and polarities.all():
        return polarities > 0
    values = np.unique(polarities).tolist()
    found = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
    raise CorruptRecord(f"{name}: has the polarities {found}; expected 0 and 1, or -1 and 1")
