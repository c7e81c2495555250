"""N-MNIST, N-Caltech101 and their kin, five bytes an event; read by the library tonic.

Tonic is an optional requirement (`pip install tonic`), for it brings 230 MB of numba and librosa along. Not
all of it works: in tonic 1.7.0 the readers of AEDAT 2.0 (`tonic.io.read_dvs_128` and its kin, but for
`read_davis_346`) end with "too many values to unpack" on every file; and its CIFAR10-DVS is another edition
of the data set, converted to AEDAT 4. So all of AEDAT is read here.
"""

import io

import numpy as np

from qsdt_jax.data.events.libraries import require
from qsdt_jax.data.events.record import as_events, check_times
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

BYTES = 5  # Of an event.
SENSOR = (256, 256)  # What a byte each can tell; `check_within` knows the sensor.
WIDE_EVENT = np.dtype([("x", int), ("y", int), ("t", np.int64), ("p", int)])  # Nothing of a file overflows.


def read_five_bytes(data: bytes, name: str) -> np.ndarray:
    """The events of a file, (events,) of dtype `EVENT`, in its order.

    Raises:
      CorruptRecord: what is no such file, one that is cut off, or one without events.
      UserError: tonic is not installed.
    """
    tonic = require("tonic.io", "tonic", name)
    if kind := kind_of(data):
        raise CorruptRecord(f"{name}: is {kind}; expected {BYTES} bytes an event, as N-MNIST has them")
    if len(data) % BYTES or not data:
        raise CorruptRecord(f"{name}: {len(data)} bytes of events; expected a multiple of {BYTES}")
    read = tonic.read_mnist_file(io.BytesIO(data), dtype=WIDE_EVENT, is_stream=True)
    if not len(read):
        raise CorruptRecord(f"{name}: has no events")
    check_times(read["t"], name)
    return as_events(read, SENSOR, name)
