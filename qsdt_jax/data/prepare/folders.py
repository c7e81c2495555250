"""Images in one folder per class."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from qsdt_jax.data.prepare.records import FilePart, Record
from qsdt_jax.data.sources import IMAGE_SUFFIXES
from qsdt_jax.errors import UserError

SUFFIXES = (*IMAGE_SUFFIXES, ".gif", ".tif", ".tiff")


class Found(NamedTuple):
    """A file and the class that it was found to have."""

    class_name: str
    name: str
    content: FilePart


def class_folders(
    folder: Path, kind: str = "images", suffixes: tuple[str, ...] = SUFFIXES
) -> tuple[list[Found], list[str]]:
    """The images of `folder/CLASS/NAME.jpg`, named CLASS/NAME.jpg, and the names of the files that are none.

    Args:
      folder: that of a split.
      kind: what the files are called, where they are no images.
      suffixes: of their names.

    Raises:
      UserError: the folder cannot be read, or that of a class holds none of them.
    """
    images, others = [], []
    for entry in scan(folder):
        if entry.is_dir():
            of_class = Path(entry.path)
            found, rest = images_in(of_class, suffixes)
            if not found:
                raise UserError(f"{of_class}: expected {kind} of a class; found {listing(of_class)}")
            images += [Found(entry.name, f"{entry.name}/{name}", part) for name, part in found]
            others += [f"{entry.name}/{name}" for name in rest]
        else:
            others.append(entry.name)
    return images, others


def images_in(
    folder: Path, suffixes: tuple[str, ...] = SUFFIXES
) -> tuple[list[tuple[str, FilePart]], list[str]]:
    """The images of a folder by name, and the names of what else is there; raises as `scan`."""
    images, others = [], []
    for entry in scan(folder):
        if entry.is_file() and entry.name.lower().endswith(suffixes):
            images.append((entry.name, FilePart(entry.path, entry.stat().st_size)))
        else:
            others.append(entry.name)
    return images, others


def scan(folder: Path) -> list[os.DirEntry]:
    """What is in a folder, sorted, without hidden files; raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None


def labelled(found: Iterable[Found], class_names: Iterable[str]) -> list[Record]:
    """Records with the numbers of their classes; raises KeyError for a class that is none."""
    labels = {name: label for label, name in enumerate(class_names)}
    return [Record(name, labels[class_name], content) for class_name, name, content in found]


def listing(folder: Path) -> str:
    """What a message says about a folder: the first names in it, or that there is none."""
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return "a file"
    names = [entry.name for entry in scan(folder)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return shown or "nothing"
