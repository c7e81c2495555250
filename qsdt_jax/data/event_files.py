"""Files of event streams by their suffix.

.aedat   AEDAT 2.0 of a DVS128, see `aedat2`
.bin     N-MNIST, N-Caltech101 and their kin, five bytes an event; read by the library tonic

Tonic is an optional requirement (`pip install tonic`), for it brings 230 MB of numba and librosa along. Not
all of it works: in tonic 1.7.0 the readers of AEDAT 2.0 (`tonic.io.read_dvs_128` and its kin, but for
`read_davis_346`) end with "too many values to unpack" on every file; and its CIFAR10-DVS is another edition
of the data set, converted to AEDAT 4. So AEDAT 2.0 is read here.
"""

import importlib.util
import io
from collections.abc import Iterable
from pathlib import PurePath

import numpy as np

from qsdt_jax.data.aedat2 import read_aedat2
from qsdt_jax.data.events import as_events, check_times
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.file_kinds import kind_of

SUFFIXES = (".aedat", ".bin")
BIN_BYTES = 5  # Of an event.
BIN_SENSOR = (256, 256)  # What a byte each can tell; `check_within` knows the sensor.
WIDE_EVENT = np.dtype([("x", int), ("y", int), ("t", np.int64), ("p", int)])  # Nothing of a file overflows.


def read_event_file(data: bytes, name: str) -> np.ndarray:
    """The events of a file.

    Args:
      data: content of the file.
      name: of the stream, whose suffix tells the format; for messages, too.

    Returns:
      (events,) of dtype `EVENT`, in the order of the file.

    Raises:
      CorruptRecord: what is no such file, one that is cut off, or one without events.
    """
    return read_aedat2(data, name) if _suffix(name) == ".aedat" else _read_bin(data, name)


def require_readers(names: Iterable[str]) -> None:
    """Raises UserError where a library is missing that reads one of these files."""
    first = next((name for name in names if _suffix(name) == ".bin"), None)
    if first is not None and importlib.util.find_spec("tonic") is None:
        raise UserError(f"{first} is read by the library tonic, which is not installed: pip install tonic")


def _read_bin(data: bytes, name: str) -> np.ndarray:
    from tonic.io import read_mnist_file

    if kind := kind_of(data):
        raise CorruptRecord(f"{name}: is {kind}; expected {BIN_BYTES} bytes an event, as N-MNIST has them")
    if len(data) % BIN_BYTES or not data:
        raise CorruptRecord(f"{name}: {len(data)} bytes of events; expected a multiple of {BIN_BYTES}")
    read = read_mnist_file(io.BytesIO(data), dtype=WIDE_EVENT, is_stream=True)
    if not len(read):
        raise CorruptRecord(f"{name}: has no events")
    check_times(read["t"], name)
    return as_events(read, BIN_SENSOR, name)


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()
