"""What a tfds data set says of its event streams, proven before any record is read."""

from pathlib import Path
from typing import Any

import numpy as np

from qsdt_jax.data.events.record import FIELDS, as_events, check_sensor, check_times, check_type
from qsdt_jax.errors import CorruptRecord, UserError

SENSOR = "sensor_size"


def sensor_of(directory: Path, info: Any) -> tuple[int, int] | None:
    """The (height, width) of the sensor of all streams, or None where each record tells its own.

    The feature "sensor_size" of ours tells it, or the entry of that name of metadata.json, which tfds puts
    beside the shards of a data set that has metadata.

    Args:
      directory: of the data set, for messages.
      info: of its tfds builder, with the feature "events".

    Raises:
      UserError: columns that are no whole numbers, no sensor size, or one that does not fit.
    """
    columns = info.features["events"]
    for field in FIELDS:
        if columns[field].shape != (None,):
            raise UserError(
                f"{directory}: events/{field} has the shape {columns[field].shape}; expected (None,)"
            )
        check_type(field, columns[field].np_dtype, f"{directory}, events")
    feature = dict(info.features.items()).get(SENSOR)
    if feature is not None:
        if feature.shape != (2,) or np.dtype(feature.np_dtype).kind not in "iu":
            found = f"{feature.np_dtype} {feature.shape}"
            raise UserError(f"{directory}: {SENSOR} is {found}; expected whole numbers (height, width)")
        return None
    try:
        said = dict(info.metadata or {}).get(SENSOR)
    except (ValueError, TypeError) as error:  # What tfds makes of a file that is no table in JSON.
        raise UserError(f"{directory / 'metadata.json'} cannot be read: {error}") from None
    if said is None:
        raise UserError(
            f"{directory} does not say how large the sensor of its events was; expected a feature "
            f'"{SENSOR}", or {{"{SENSOR}": [HEIGHT, WIDTH]}} in {directory / "metadata.json"}'
        )
    where = f"{directory}, {SENSOR} in metadata.json"
    if not isinstance(said, list) or not all(type(side) is int for side in said):
        raise UserError(f"{where}: expected [HEIGHT, WIDTH] in whole numbers; found {repr(said)[:60]}")
    return check_sensor(tuple(said), where)


def events_of(
    record: dict[str, Any], sensor_size: tuple[int, int] | None, name: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """The stream of a record in our dtype, and the (height, width) of its sensor.

    Args:
      record: as tfds decodes it.
      sensor_size: what `sensor_of` gave.
      name: of the record, for messages.

    Raises:
      CorruptRecord: events that do not prove to be ones of that sensor.
    """
    if sensor_size is None:
        try:
            sensor_size = check_sensor(tuple(map(int, record[SENSOR])), f"{name}: {SENSOR}")
        except UserError as error:
            raise CorruptRecord(str(error)) from None
    events = as_events(record["events"], sensor_size, name)
    check_times(events["t"], name)
    return events, sensor_size
