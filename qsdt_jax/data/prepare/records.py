"""What a reader of a real format hands to the writer: names, labels, and where the bytes lie."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from qsdt_jax.data.dense.instances import Category, ListedImage
from qsdt_jax.data.events.formats.aedat2 import SENSOR_SIZE
from qsdt_jax.data.index_images import Numbering
from qsdt_jax.errors import UserError
from qsdt_jax.retry import reason, retried

TRAIN, VALIDATION, TEST = "train", "validation", "test"
CLASSES = "classes"


class Content(Protocol):
    """The bytes of a record, read late, in any order, by several threads at once."""

    @property
    def size(self) -> int:
        """Number of bytes, or about that."""
        ...

    def read(self) -> bytes:
        """The bytes; raises OSError where they are gone."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of a file from an offset on: a whole file, or a member of an archive that is not compressed."""

    path: str
    size: int
    offset: int = 0

    @classmethod
    def of(cls, path: str) -> "FilePart":
        """The whole of a file; raises UserError where it is not there."""
        try:
            return cls(path, retried(lambda: os.stat(path).st_size, path))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {reason(error)}") from None

    def read(self) -> bytes:
        """The bytes; raises OSError where the file is gone or shorter than it was."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(f"{len(data)} bytes instead of {self.size}")
        return data


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One example.

    Attributes:
      name: by which it is reported, stored and put in order; unique within its split.
      label: index into the class names; None where each pixel has its own.
      content: an encoded image, or a file of an event stream.
      annotation: an index image of the classes of the pixels.
      listed: the objects of the image.
      interval: of a recording in AEDAT 3.1, the part that is the stream, see `aedat3.read_interval`.
    """

    name: str
    label: int | None
    content: Content
    annotation: Content | None = None
    listed: ListedImage | None = None
    interval: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Bytes of all its contents, about."""
        return self.content.size + (self.annotation.size if self.annotation else 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as it was found.

    Attributes:
      name: of the tfds data set.
      description: one sentence.
      source: where it was found.
      class_names: in the order of the labels.
      splits: records by the name of the tfds split.
      kind: what the contents are; "segmentation" are images with annotations, "detection" with objects.
      numbering: of the annotations.
      categories: of the objects, in the order of the labels.
      sensor_size: (height, width) in pixels of the sensor that saw the events.
      on_its_side: whether the camera lay on its side, so that its columns are the rows of the picture.
      expected: number of classes and of records by split, where the data set is a fixed one.
      ignored: files that lie among the records and are none.
      hidden: those that are hidden, or of the system.
      told: further lines about what was left out or changed.
      division: how the records were divided into splits, where the data set itself does not say it.
    """

    name: str
    description: str
    source: Path
    class_names: Sequence[str]
    splits: Mapping[str, Sequence[Record]]
    kind: Literal["image", "events", "segmentation", "detection"] = "image"
    numbering: Numbering | None = None
    categories: Sequence[Category] = ()
    sensor_size: tuple[int, int] = SENSOR_SIZE
    on_its_side: bool = False
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    ignored: Sequence[str] = ()
    hidden: Sequence[str] = ()
    told: Sequence[str] = ()
    division: str | None = None


def check(dataset: DataSet, *, allow_partial: bool) -> None:
    """Refuses what is not there as a whole, or cannot be stored.

    Args:
      dataset: as found.
      allow_partial: accept other numbers of classes and records than the data set is known to have.

    Raises:
      UserError: numbers that are not the expected ones; a split without records; a class name that the text
        file of class names cannot hold.
    """
    for name in dataset.class_names:
        if not name or name != name.strip() or "\n" in name or not name.isprintable():
            raise UserError(f"{dataset.source}: {name!r} is no class name that can be stored; rename it")
    if len(set(dataset.class_names)) != len(dataset.class_names):
        raise UserError(f"{dataset.source}: two classes have the same name")
    for split, records in dataset.splits.items():
        if not records:
            raise UserError(f"{dataset.source}: the {split} split has no records")
    found = {CLASSES: len(dataset.class_names)} | {k: len(v) for k, v in dataset.splits.items()}
    differences = [
        f"{found.get(key, 0):,} {key} of {number:,}"
        for key, number in dataset.expected.items()
        if found.get(key, 0) != number
    ]
    if differences and not allow_partial:
        raise UserError(
            f"{dataset.source} is not the whole of {dataset.name}: found {', '.join(differences)}; "
            "allow_partial=True prepares what is there"
        )
