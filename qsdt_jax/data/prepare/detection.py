"""Images with objects in the layout of COCO, as `dense.coco_source` finds them."""

from collections.abc import Sequence
from pathlib import Path

from qsdt_jax.data.dense.coco_source import find_split, has_split
from qsdt_jax.data.dense.instances import Category, ListedImage
from qsdt_jax.data.prepare.records import TRAIN, VALIDATION, DataSet, FilePart, Record
from qsdt_jax.data.sources import SplitName
from qsdt_jax.errors import UserError

SPLITS: dict[SplitName, str] = {"train": TRAIN, "test": VALIDATION}


def read_coco_folder(source: Path) -> DataSet:
    """COCO, or a data set in its format; of the training images those with objects that can be learnt.

    Raises:
      UserError: as `find_split`, or the splits have different categories.
    """
    splits: dict[str, list[Record]] = {}
    told: list[str] = []
    categories: tuple[Category, ...] = ()
    for split, name in SPLITS.items():
        if split != "train" and not has_split(source, split):
            continue
        found = find_split(source, split)
        if categories and found.categories != categories:
            ours, theirs = (next(iter(set(a) - set(b)), None) for a, b in _both(categories, found.categories))
            raise UserError(f"{source}: the splits have different categories: {ours} and {theirs} for one")
        categories = found.categories
        splits[name] = records(source, found.folder, found.images)
        told += found.told
    return DataSet(
        name="coco",
        description="Images with boxes and masks of objects, in the format of COCO.",
        source=source,
        class_names=[category.name for category in categories],
        categories=categories,
        splits=splits,
        kind="detection",
        told=told,
    )


def records(source: Path, folder: Path, images: Sequence[ListedImage]) -> list[Record]:
    """Of the images of a split, by the names of their files; raises UserError where two have the same."""
    names = [image.file_name for image in images]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{source}: two images have the file {twice}; expected a file for each")
    return [
        Record(image.file_name, None, FilePart.of(str(folder / image.file_name)), listed=image)
        for image in images
    ]


def _both(one: tuple, other: tuple) -> tuple[tuple, tuple]:
    return (one, other), (other, one)
