"""Files of event streams by their suffix, and of AEDAT by the version that the first line says.

.aedat          AEDAT 2.0 of a DVS128, AEDAT 3.1 and AEDAT 4; also .aedat2 and .aedat4
.bin            N-MNIST, N-Caltech101 and their kin, five bytes an event; read by the library tonic
.npy, .npz      a structured array, or an array for each column, as simulators write them
.txt, .csv      a line for each event
.h5, .hdf5      as v2e has them, or a data set for each column; read by the library h5py
"""

from collections.abc import Iterable
from pathlib import PurePath

from qsdt_jax.data.events.formats import aedat2, aedat3, aedat4
from qsdt_jax.data.events.formats.arrays import read_npy, read_npz
from qsdt_jax.data.events.formats.five_bytes import read_five_bytes
from qsdt_jax.data.events.formats.hdf5 import read_hdf5
from qsdt_jax.data.events.formats.text import read_text
from qsdt_jax.data.events.libraries import require_installed
from qsdt_jax.data.events.record import Recording

AEDAT = (".aedat", ".aedat2", ".aedat4")
SUFFIXES = (*AEDAT, ".bin", ".npy", ".npz", ".txt", ".csv", ".h5", ".hdf5")
LIBRARIES = {".bin": "tonic", ".h5": "h5py", ".hdf5": "h5py"}


def read_event_file(data: bytes, name: str) -> Recording:
    """The events of a file, and the size of the sensor where the file or its format says it.

    Args:
      data: content of the file.
      name: of the stream, whose suffix, one of `SUFFIXES`, tells the format; for messages, too.

    Raises:
      CorruptRecord: what is no such file, one that is cut off, or one without events.
      UserError: a library that reads it is missing.
    """
    match PurePath(name).suffix.lower():
        case ".bin":
            return Recording(read_five_bytes(data, name), None)
        case ".npy":
            return read_npy(data, name)
        case ".npz":
            return read_npz(data, name)
        case ".txt" | ".csv" as suffix:
            return read_text(data, name, named=suffix == ".csv")
        case ".h5" | ".hdf5":
            return read_hdf5(data, name)
        case _:
            return _read_aedat(data, name)


def require_readers(names: Iterable[str]) -> None:
    """Raises UserError where a library is missing that reads one of these files."""
    for name in names:
        library = LIBRARIES.get(PurePath(name).suffix.lower())
        if library is not None:
            require_installed(library, name)


def _read_aedat(data: bytes, name: str) -> Recording:
    if data.startswith(aedat3.MAGIC):
        return aedat3.read_aedat3(data, name)
    if data.startswith(aedat4.MAGIC):
        return aedat4.read_aedat4(data, name)
    return Recording(aedat2.read_aedat2(data, name), aedat2.SENSOR_SIZE)
