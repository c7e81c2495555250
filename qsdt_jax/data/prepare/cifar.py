"""CIFAR-10, and CIFAR-100 with its fine classes, in the archives "python version", packed or unpacked.

An archive is a few pickles of Python 2, each a dict of pixels (N, 3072), red plane first, and labels. Pickled
again by Python 3 or NumPy 2, keys and names may be text, lists arrays, and the code of NumPy has other names.
"""

import dataclasses
import functools
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qsdt_jax.data.class_folders import composed, listing
from qsdt_jax.data.prepare.archives import gzip_members
from qsdt_jax.data.prepare.records import CLASSES, TEST, TRAIN, DataSet, Record
from qsdt_jax.errors import UserError
from qsdt_jax.retry import retried

SIDE, CHANNELS = 32, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How one of the two is stored."""

    title: str
    archive: str
    folder: str
    files: dict[str, tuple[str, ...]]  # By split.
    meta: str
    names_key: bytes
    labels_key: bytes
    classes: int


CIFAR10 = Layout(
    title="CIFAR-10",
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    files={TRAIN: tuple(f"data_batch_{i}" for i in range(1, 6)), TEST: ("test_batch",)},
    meta="batches.meta",
    names_key=b"label_names",
    labels_key=b"labels",
    classes=10,
)
CIFAR100 = Layout(
    title="CIFAR-100",
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    files={TRAIN: ("train",), TEST: ("test",)},
    meta="meta",
    names_key=b"fine_label_names",
    labels_key=b"fine_labels",
    classes=100,
)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """An image in memory, uint8 (H, W, C)."""

    pixels: np.ndarray

    @property
    def size(self) -> int:
        """Bytes of the pixels, somewhat more than those of the PNG."""
        return self.pixels.size

    def read(self) -> bytes:
        """The image as PNG."""
        png = io.BytesIO()
        Image.fromarray(self.pixels).save(png, "PNG")
        return png.getvalue()


def read_cifar(source: Path, layout: Layout) -> DataSet:
    """The images of an archive, of its folder, or of one of the two below `source`.

    Raises:
      UserError: neither is there, a file of it is missing or damaged, or holds something else.
    """
    where, read = _files(source, layout)
    meta = _unpickle(where, layout.meta, read)
    names = _texts(meta.get(layout.names_key))
    if names is None:
        raise UserError(f"{where}: {layout.meta} has no list {layout.names_key.decode()!r}")
    return DataSet(
        name=layout.title.replace("-", "").lower(),
        description=f"{layout.title}, the pixels as PNG.",
        source=source,
        class_names=list(map(composed, names)),
        splits={
            split: [r for file in files for r in _records(where, file, read, layout, len(names))]
            for split, files in layout.files.items()
        },
        expected={CLASSES: layout.classes, TRAIN: 50_000, TEST: 10_000},
    )


def _files(source: Path, layout: Layout) -> tuple[Path, Callable[[str], bytes]]:
    """Where the files are, and how to read one by its name."""
    for folder in (source, source / layout.folder):
        if (folder / layout.meta).is_file():
            return folder, lambda name, folder=folder: retried((folder / name).read_bytes, folder / name)
    for archive in (source, source / layout.archive):
        if archive.is_file():
            return archive, _unpack(archive, layout).__getitem__
    raise UserError(f"{source}: expected {layout.archive} or {layout.folder}/; found {listing(source)}")


def _unpack(archive: Path, layout: Layout) -> dict[str, bytes]:
    folder = layout.folder + "/"
    files = {n.removeprefix(folder): x for n, x in gzip_members(archive).items() if n.startswith(folder)}
    if layout.meta not in files:
        raise UserError(f"{archive} has no {folder}{layout.meta}; expected {layout.archive}")
    return files


def _records(
    where: Path, file: str, read: Callable[[str], bytes], layout: Layout, classes: int
) -> list[Record]:
    batch = _unpickle(where, file, read)
    data, labels = batch.get(b"data"), _as_list(batch.get(layout.labels_key))
    names = _texts(batch.get(b"filenames"))
    pixels = SIDE * SIDE * CHANNELS
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (pixels,)):
        raise UserError(f"{where}: {file} has no pixels 'data' of uint8 (N, {pixels})")
    if labels is None or not all(type(x) is int and 0 <= x < classes for x in labels):
        raise UserError(f"{where}: {file} has no labels {layout.labels_key.decode()!r} of 0..{classes - 1}")
    if names is None:
        raise UserError(f"{where}: {file} has no list 'filenames'")
    if not len(data) == len(labels) == len(names):
        raise UserError(
            f"{where}: {file} has {len(data)} images, {len(labels)} labels and {len(names)} names"
        )
    images = data.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)
    return [
        # Some names come twice, so the number takes part.
        Record(f"{file}/{i:05d}/{name}", label, Pixels(image))
        for i, (name, label, image) in enumerate(zip(names, labels, images, strict=True))
    ]


def _as_list(value: Any) -> list[Any] | None:
    """The plain values of a list, or of what became of one; None for something else."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    if not isinstance(value, list | tuple):
        return None
    return [x.item() if isinstance(x, np.generic) else x for x in value]


def _texts(value: Any) -> list[str] | None:
    """The texts of a list of texts or of byte strings; None for something else."""
    values = _as_list(value)
    if values is None or not all(isinstance(x, bytes | str) for x in values):
        return None
    return [x.decode("utf-8", "backslashreplace") if isinstance(x, bytes) else x for x in values]


def _unpickle(where: Path, file: str, read: Callable[[str], bytes]) -> dict[bytes, Any]:
    try:
        packed = read(file)
    except (OSError, KeyError) as error:
        raise UserError(f"{where}: {file} is missing or cannot be read ({error})") from None
    try:
        content = _Unpickler(io.BytesIO(packed), encoding="bytes").load()
    except UserError as error:
        raise UserError(f"{where}: {file} {error}") from None
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to ask for.
        raise UserError(f"{where}: {file} is damaged or no pickle ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: {file} holds {type(content).__name__}; expected a dict")
    named = {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}
    if len(named) < len(content):
        raise UserError(f"{where}: {file} holds a key twice, as text and as bytes")
    return named


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise UserError(f"encodes a text in {encoding!r:.20}; expected bytes as Python 3 writes them")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


class _Unpickler(pickle.Unpickler):
    """Builds NumPy arrays out of a pickle and refuses whatever else it names."""

    @functools.cached_property
    def _allowed(self) -> dict[tuple[str, str], Any]:
        of_numpy = {
            ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("multiarray", "scalar"): np.int64(0).__reduce__()[0],
            ("numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0],
        }
        return {
            # In NumPy 1 and in NumPy 2.
            **{(f"numpy.{c}.{m}", n): f for (m, n), f in of_numpy.items() for c in ("core", "_core")},
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            # How Python 3 writes bytes for Python 2.
            ("_codecs", "encode"): _latin1,
            ("__builtin__", "bytes"): _no_bytes,
        }

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The function or class of a name in the pickle."""
        try:
            return self._allowed[module_name, global_name]
        except KeyError:
            name = ascii(f"{module_name}.{global_name}")[1:-1][:80]
            raise UserError(f"names the code {name}, which is not run; expected arrays and lists") from None
