"""What is of tfds in a data set: its features, the bytes of its examples, and the files beside the shards."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsdt_jax.data.events.record import stored_types
from qsdt_jax.data.index_images import encode
from qsdt_jax.data.prepare.records import DataSet

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VERSION = "1.0.0"
INFO_FILE = "dataset_info.json"  # Without it, a folder is no data set.
# Of images with annotations or objects, [height, width] of each record, by the split.
SIZES_FILE = "image_sizes.json"
CATEGORIES_FILE = "categories.json"  # Of images with objects, the numbers of the categories in COCO's files.
SUPERVISED = {
    "image": ("image", "label"),
    "events": None,
    "segmentation": ("image", "annotation"),
    "detection": None,
}
UNFINISHED = ".preparing"  # Folder of a directory that is not finished.


def features_of(dataset: DataSet) -> "tfds.features.FeaturesDict":
    """The tfds features by the kind of the data set, each kind but the last with "file_name".

    "image" and "label"; "events" {t, x, y, p}, "sensor_size" and "label"; "image" and "annotation" with the
    names of the classes, whose numbers are those of examples, see `dense.annotations`; what tfds has for
    COCO, and what `dense.tfds_detection` says.
    """
    import tensorflow_datasets as tfds  # Nearly a second to import.

    def column(dtype: type) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding="bytes")

    names = list(dataset.class_names)
    label = tfds.features.ClassLabel(names=names)
    match dataset.kind:
        case "image":
            content = {"image": tfds.features.Image(), "label": label}
        case "events":
            columns = stored_types(dataset.sensor_size)
            content = {
                "events": {name: column(dtype.type) for name, dtype in columns.items()},
                "sensor_size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
                "label": label,
            }
        case "segmentation":
            assert dataset.numbering is not None
            annotation = tfds.features.LabeledImage(
                labels=names, shape=(None, None, 1), dtype=dataset.numbering.dtype, encoding_format="png"
            )
            content = {"image": tfds.features.Image(), "annotation": annotation}
        case "detection":
            objects = {
                "id": np.int64,
                "area": np.int64,
                "bbox": tfds.features.BBoxFeature(),
                "label": label,
                "is_crowd": np.bool_,
                "segmentation": tfds.features.Text(),
            }
            return tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "image/filename": tfds.features.Text(),
                    "image/id": np.int64,
                    "objects": tfds.features.Sequence(objects),
                    "written": {"bbox": column(np.float64), "area": column(np.float64)},
                }
            )
    return tfds.features.FeaturesDict({**content, "file_name": tfds.features.Text()})


def serializer(features: "tfds.features.FeaturesDict") -> Callable[[Mapping[str, Any]], bytes]:
    """From an example of `example_of` to the bytes that tfds stores, the same bytes in every process."""
    import tensorflow_datasets as tfds

    specs: Any = features.get_serialized_info()
    to_proto = tfds.core.ExampleSerializer(specs)

    def serialize(example: Mapping[str, Any]) -> bytes:
        if "annotation" in example:
            example = {**example, "annotation": encode(example["annotation"])}
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
        supervised_keys=SUPERVISED[dataset.kind],
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
