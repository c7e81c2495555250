"""Event files in one folder per class: N-MNIST, N-Caltech101, recordings of one's own.

The layouts are those of `imagefolder`; the files those of `events.files`.
"""

import dataclasses
from pathlib import Path

from qsdt_jax.data.events.files import SUFFIXES, require_readers
from qsdt_jax.data.events.record import check_sensor
from qsdt_jax.data.prepare.imagefolder import read_folder
from qsdt_jax.data.prepare.records import DataSet


def read_eventfolder(source: Path, sensor_size: tuple[int, ...]) -> DataSet:
    """The streams of a folder.

    Args:
      source: of the layouts of `imagefolder`.
      sensor_size: (height, width) of the sensor in pixels.

    Raises:
      UserError: a size that is none; what `read_imagefolder` raises; files that no installed library reads.
    """
    size = check_sensor(sensor_size, "sensor_size")
    dataset = read_folder(source, "event files", "STREAM.aedat", SUFFIXES)
    require_readers(record.name for records in dataset.splits.values() for record in records)
    return dataclasses.replace(
        dataset,
        name="eventfolder",
        description="Event streams from one folder per class.",
        kind="events",
        sensor_size=size,
    )
