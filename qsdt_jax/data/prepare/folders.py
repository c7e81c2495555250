"""Records of the files in one folder per class."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from qsdt_jax.data.class_folders import Entry, find_classes
from qsdt_jax.data.images import IMAGE_SUFFIXES
from qsdt_jax.data.prepare.records import FilePart, Record


class Found(NamedTuple):
    """The content of a record and the class that it was found to have."""

    class_name: str
    name: str
    content: FilePart


class Listed(NamedTuple):
    """What was found, and the names of what lay among it and is none, or is hidden."""

    found: list[Found]
    others: list[str]
    hidden: list[str]


def class_folders(folder: Path, kind: str = "images", suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Listed:
    """The files of `folder/CLASS/NAME.jpg`, named CLASS/NAME.jpg; arguments and errors of `find_classes`."""
    classes = find_classes(folder, kind, suffixes)
    found = [Found(file.class_name, file.name, FilePart.of(file.path)) for file in classes.files]
    return Listed(found, classes.others, classes.hidden)


def parts(files: Iterable[Entry]) -> list[tuple[str, FilePart]]:
    """The contents of files by their names."""
    return [(file.name, FilePart.of(file.path)) for file in files]


def labelled(found: Iterable[Found], class_names: Iterable[str]) -> list[Record]:
    """Records with the numbers of their classes; raises KeyError for a class that is none."""
    labels = {name: label for label, name in enumerate(class_names)}
    return [Record(name, labels[class_name], content) for class_name, name, content in found]
