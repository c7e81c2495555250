"""What is of tfds in a data set: its features, the bytes of its examples, and the files beside the shards."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsdt_jax.data.prepare.records import DataSet

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VERSION = "1.0.0"
INFO_FILE = "dataset_info.json"  # Without it, a folder is no data set.
UNFINISHED = ".preparing"  # Folder of a directory that is not finished.


def features_of(dataset: DataSet) -> "tfds.features.FeaturesDict":
    """The tfds features: "image", or "events" {t, x, y, p} and "sensor_size"; "label" and "file_name"."""
    import tensorflow_datasets as tfds  # Nearly a second to import.

    def column(dtype: type) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding="bytes")

    if dataset.kind == "image":
        content = {"image": tfds.features.Image()}
    else:
        columns = {"t": np.uint32, "x": np.uint8, "y": np.uint8, "p": np.uint8}
        content = {
            "events": {name: column(dtype) for name, dtype in columns.items()},
            "sensor_size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }
    return tfds.features.FeaturesDict(
        {
            **content,
            "label": tfds.features.ClassLabel(names=list(dataset.class_names)),
            "file_name": tfds.features.Text(),
        }
    )


def serializer(features: "tfds.features.FeaturesDict") -> Callable[[Mapping[str, Any]], bytes]:
    """From an example to the bytes that tfds stores, the same bytes in every process."""
    import tensorflow_datasets as tfds

    specs: Any = features.get_serialized_info()
    to_proto = tfds.core.ExampleSerializer(specs)

    def serialize(example: Mapping[str, Any]) -> bytes:
        proto = to_proto.get_tf_example(features.encode_example(example))
        # A proto's fields by name have an order that differs from process to process otherwise.
        return proto.SerializeToString(deterministic=True)

    return serialize


def write_metadata(
    dataset: DataSet,
    features: "tfds.features.FeaturesDict",
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    folder: Path,
) -> None:
    """dataset_info.json, features.json and the names of the classes, as tfds writes them."""
    import tensorflow_datasets as tfds

    identity = tfds.core.DatasetIdentity(
        name=dataset.name, version=tfds.core.Version(VERSION), data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=dataset.description,
        features=features,
        supervised_keys=(dataset.kind, "label") if dataset.kind == "image" else None,
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    template = tfds.core.ShardedFileTemplate(
        data_dir=tfds.core.Path(folder), dataset_name=dataset.name, filetype_suffix="array_record"
    )
    info.set_splits(
        tfds.core.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[note["records"] for note in notes],
                    num_bytes=sum(note["record_bytes"] for note in notes),
                    filename_template=template,
                )
                for split, notes in splits.items()
            ]
        )
    )
    info.write_to_directory(folder)
