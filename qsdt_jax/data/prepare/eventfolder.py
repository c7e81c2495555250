"""Event files in one folder per class: N-MNIST, N-Caltech101, recordings of one's own.

The layouts are those of `imagefolder`; the files those of `events.files`.
"""

import dataclasses
from pathlib import Path

from qsdt_jax.data.events.files import SUFFIXES, require_readers
from qsdt_jax.data.events.record import LARGEST_SENSOR
from qsdt_jax.data.prepare.imagefolder import read_folder
from qsdt_jax.data.prepare.records import DataSet
from qsdt_jax.errors import UserError


def read_eventfolder(source: Path, sensor_size: tuple[int, ...]) -> DataSet:
    """The streams of a folder.

    Args:
      source: of the layouts of `imagefolder`.
      sensor_size: (height, width) of the sensor in pixels.

    Raises:
      UserError: a size that is none; what `read_imagefolder` raises; files that no installed library reads.
    """
    if len(sensor_size) != 2 or not all(1 <= size <= LARGEST_SENSOR for size in sensor_size):
        found = ",".join(map(str, sensor_size)) or "nothing"
        raise UserError(
            f"sensor_size: expected HEIGHT,WIDTH of 1 to {LARGEST_SENSOR} pixels, as 34,34 of N-MNIST; "
            f"found {found}"
        )
    dataset = read_folder(source, "event files", "STREAM.aedat", SUFFIXES)
    require_readers(record.name for records in dataset.splits.values() for record in records)
    height, width = sensor_size
    return dataclasses.replace(
        dataset,
        name="eventfolder",
        description="Event streams from one folder per class.",
        kind="events",
        sensor_size=(height, width),
    )
