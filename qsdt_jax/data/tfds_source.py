"""Reads tensorflow-datasets directories of array_record shards, without TensorFlow."""

import collections
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsdt_jax.command import COMMAND
from qsdt_jax.data.class_folders import composed
from qsdt_jax.data.dense.coco_source import require_size
from qsdt_jax.data.dense.instances import ListedImage, as_dataset
from qsdt_jax.data.dense.tfds_detection import categories_of, is_objects, listed
from qsdt_jax.data.dense.tfds_segmentation import annotated, is_annotation, sizes_of
from qsdt_jax.data.events.tfds import events_of, sensor_of
from qsdt_jax.data.images import MODES, decode_image
from qsdt_jax.data.once import once
from qsdt_jax.data.prepare.metadata import INFO_FILE, UNFINISHED
from qsdt_jax.data.prepare.shard_file import records_in, telling_calls
from qsdt_jax.data.sources import Example, SplitName
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.retry import reason, retried

# The names of tfds for our splits, the first that is there. The test split of some (ImageNet) has no labels,
# which is why validation comes first.
SPLITS = {"train": ("train",), "test": ("validation", "val", "test")}
# Features that are decoded here, by the kind.
IMAGES = {"image": ("image",), "segmentation": ("image", "annotation"), "detection": ("image",), "events": ()}


class TfdsSource:
    """A split of a tfds directory, prepared here or by tfds itself.

    Examples are {"image": uint8 (H, W, C), "label": int}, decoded as Pillow's conversion does; with an
    "annotation" (see `dense.annotations`) in place of the label; or with objects, as `CocoSource` has them;
    or, of a data set of event streams, as `sources` has them. It pickles as its arguments.

    Args:
      directory: NAME/VERSION below a tfds data directory, or a folder that holds a single data set.
      split: "train" or "test"; for "test" the split "validation" or "val" is taken where there is one.
      channels: of the images, 1 for grey or 3 for RGB; event streams leave it unheeded.

    Raises:
      UserError: no tfds data set, another format than array_record, no such split, a shard of it that is
        missing or cut off, no feature "image" or "events", no feature "label", "annotation" or "objects" with
        classes, events of other types than ours or of a sensor of unknown size.
    """

    def __init__(self, directory: str | Path, split: SplitName, channels: int = 3):
        self._arguments = directory, split, channels
        self.directory = find_directory(Path(directory))
        self._channels = channels
        info = _open(self.directory).info
        self.kind = _kind(self.directory, info.features)
        if self.kind != "events" and channels not in MODES:
            raise UserError(f"image files give 1 or 3 channels, but the network takes {channels}")
        self._sensor_size = sensor_of(self.directory, info) if self.kind == "events" else None
        labels = _labels(self.kind, info.features)
        self.class_names: tuple[str, ...] = _class_names(self.directory, labels.names)
        self.split = _split(self.directory, split, info.splits)
        try:
            _require_shards(self.directory, info.splits[self.split])
            self._length: int = info.splits[self.split].num_examples
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.directory}: its dataset_info.json is damaged ({_reason(error)})"
            ) from None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        """The example.

        Raises:
          CorruptRecord: its bytes are no example.
          UserError: they cannot be read, also not after a while (see `retried`), or the shard is gone.
        """
        record = self._read(index)
        name = self._name(index, record)
        if self.kind == "segmentation":
            if record["annotation"] is None:
                raise CorruptRecord(f"{name}: is empty")
            return annotated(record, len(self.class_names), self._channels, name)
        if self.kind == "detection":
            if record["image"] is None:
                raise CorruptRecord(f"{name}: is empty")
            image = decode_image(record["image"], self._channels, name)
            require_size(image.shape[:2], self.size_of(index), name)
            return {"image": image, "index": index, **self._listed(index, record).objects()}
        label = record["label"]
        if label is None:  # What array_record gives out of a shard that is cut off.
            raise CorruptRecord(f"{name}: is empty")
        label = int(label)
        if not 0 <= label < len(self.class_names):
            raise CorruptRecord(f"{name}: has the label {label}; expected 0..{len(self.class_names) - 1}")
        if self.kind == "events":
            events, sensor_size = events_of(record, self._sensor_size, name)
            return {"events": events, "sensor_size": sensor_size, "label": label}
        return {"image": decode_image(record["image"], self._channels, name), "label": label}

    def size_of(self, index: int) -> tuple[int, int]:
        """(height, width) of an image that has an annotation or objects, without reading its record."""
        height, width = self._sizes[index]
        return height, width

    @property
    def truth(self) -> dict[str, Any] | None:
        """What images with objects are scored against, see `dense.instances.as_dataset`; None for others."""
        if self.kind != "detection":
            return None
        categories = categories_of(self.directory, self.class_names)
        return as_dataset([self._listed(i, self._read(i)) for i in range(len(self))], categories)

    def _listed(self, index: int, record: dict[str, Any]) -> ListedImage:
        return listed(record, self.size_of(index), len(self.class_names), self._name(index, record))

    @once
    def _sizes(self) -> Sequence[Sequence[int]]:
        return sizes_of(self.directory, self.split, len(self))

    def __reduce__(self):
        return TfdsSource, self._arguments

    def _read(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self._name(index, {})
        try:
            return retried(lambda: self._try(index), name)
        except OSError as error:  # A shard that is gone, for one.
            raise UserError(f"{name}: cannot be read ({reason(error)})") from None
        except UserError:
            raise
        except Exception as error:  # Whatever array_record and protobuf make of damaged shards.
            raise CorruptRecord(f"{name}: cannot be read ({_reason(error)})") from None

    def _try(self, index: int) -> dict[str, Any]:
        try:
            with telling_calls():
                return self._records[index]
        except OSError:
            self.__dict__.pop("_records", None)  # It keeps a shard that it could not open as it is.
            raise

    def _name(self, index: int, record: dict[str, Any]) -> str:
        where = f"{self.directory}, {self.split} record {index}"
        name = record.get("file_name", record.get("image/filename"))
        return f"{where} ({name.decode(errors='replace')})" if isinstance(name, bytes) else where

    @once
    def _records(self):
        import tensorflow_datasets as tfds

        images = IMAGES[self.kind]
        decoders = {name: tfds.decode.SkipDecoding() for name in images} or None
        return _open(self.directory).as_data_source(self.split, decoders=decoders)


def find_directory(path: Path) -> Path:
    """The directory of the data set at or below `path`.

    Raises:
      UserError: there is none, or more than one.
    """
    levels = ("", "*/", "*/*/")
    found = [file.parent for level in levels for file in sorted(path.glob(level + INFO_FILE))]
    if found and (found[0] == path or len(found) == 1):
        return found[0]
    if found:
        raise UserError(f"{path} holds several data sets; expected one of {', '.join(map(str, found[:5]))}")
    for level in levels:
        for unfinished in path.glob(level + UNFINISHED):
            raise UserError(f"{unfinished.parent} is not finished; give the command that prepares it again")
    raise UserError(f"{path} is no tfds data set: it has no {INFO_FILE}; `{COMMAND} prepare` makes one")


def _open(directory: Path) -> Any:
    """The tfds builder of a directory."""
    import tensorflow_datasets as tfds  # Nearly a second to import, and only this source needs it.

    def load() -> tuple[Any, Any]:
        builder = tfds.builder_from_directory(os.fspath(directory))
        return builder, builder.info.file_format

    try:
        builder, file_format = retried(load, directory)
    except UserError:
        raise
    except Exception as error:  # Whatever tfds makes of damaged files.
        raise UserError(f"{directory} cannot be read by tfds ({_reason(error)})") from None
    if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        found = file_format.value if file_format else "no format"
        raise UserError(
            f"{directory} is in the format {found}; expected array_record: prepare it again with "
            f"`{COMMAND} prepare`, or with tfds and file_format='array_record'"
        )
    return builder


def _kind(directory: Path, features: Any) -> str:
    """The feature that examples are made of."""
    import tensorflow_datasets as tfds

    known: dict[str, Any] = dict(features.items())
    image: Any = known.get("image")
    events: Any = known.get("events")
    is_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
    if is_image and is_annotation(known.get("annotation")):
        return "segmentation"
    if is_image and is_objects(known.get("objects")):
        return "detection"
    if "objects" in known:
        problem = f"objects with categories and masks, as `{COMMAND} prepare coco` gives them,"
    elif "annotation" in known:
        problem = "annotation with names of classes"
    elif not isinstance(known.get("label"), tfds.features.ClassLabel):
        problem = "label of classes"
    elif is_image:
        return "image"
    elif isinstance(events, tfds.features.FeaturesDict) and set(events) == {"t", "x", "y", "p"}:
        return "events"
    else:
        problem = "image of uint8, nor events of t, x, y, p"
    raise UserError(f"{directory} has no {problem}; found the features {', '.join(sorted(known))}")


def _labels(kind: str, features: Any) -> Any:
    """The feature that names the classes."""
    match kind:
        case "segmentation":
            return features["annotation"]
        case "detection":
            return features["objects"].feature["label"]
        case _:
            return features["label"]


def _class_names(directory: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The names in the form in which all sources give them."""
    found = tuple(map(composed, names))
    if twice := [name for name, number in collections.Counter(found).items() if number > 1]:
        raise UserError(f"{directory} has the class {twice[0]!r} twice, perhaps in two forms of Unicode")
    return found


def _split(directory: Path, split: SplitName, splits: Any) -> str:
    for name in SPLITS[split]:
        if name in splits:
            return name
    raise UserError(
        f"{directory} has no {split} split; expected {' or '.join(SPLITS[split])}, found {', '.join(splits)}"
    )


def _require_shards(directory: Path, split_info: Any) -> None:
    files = split_info.filepaths
    missing = retried(lambda: [path for path in files if not Path(path).exists()], directory)
    if missing:
        count = f"{len(missing)} of {split_info.num_shards}"
        raise UserError(f"{directory} lacks {count} shards, {missing[0].name} for one")
    for path, expected in zip(split_info.filepaths, split_info.shard_lengths, strict=True):
        found = records_in(Path(path))
        if found != expected:
            what = "is damaged or cut off" if found is None else f"has {found:,} records"
            raise UserError(f"{path} {what}; expected {expected:,} records")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
