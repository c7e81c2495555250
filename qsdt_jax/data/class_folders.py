"""Folders of classes, FOLDER/CLASS/FILE: one way to find them, for training on them and for preparing them.

The classes are the folders in FOLDER, ordered as text by the code points of their names, so that 10 comes
before 2. Names of classes are compared and kept in Unicode's form NFC: the same word comes as NFD from a Mac.
Files count by their suffix, whatever its capitals, and stand directly in the folder of their class. Hidden
files and folders, and those in which systems keep their own things, count as nowhere; links count as what
they lead to. What is left out is told in one line.
"""

import functools
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging

from qsdt_jax.data.images import IMAGE_SUFFIXES
from qsdt_jax.errors import UserError
from qsdt_jax.retry import may_pass, reason, retried

# Beside what begins with a dot (.ipynb_checkpoints, .DS_Store, ._x.jpg); in small letters.
OF_SYSTEMS = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "lost+found",
    "system volume information",
}
SHOWN = 3  # Names in the line that tells what was left out.


class Entry(NamedTuple):
    """What is in a folder. A link that leads nowhere is neither a folder nor a file."""

    name: str
    path: str
    is_folder: bool
    is_file: bool

    @property
    def is_hidden(self) -> bool:
        return is_hidden(self.name)

    @property
    def shown(self) -> str:
        """The name, of a folder with a slash."""
        return self.name + "/" * self.is_folder


class ClassFile(NamedTuple):
    """A file and the class that it was found to have."""

    class_name: str
    name: str
    path: str


class Classes(NamedTuple):
    """What a folder of classes holds.

    Attributes:
      class_names: in their order.
      files: of all classes, class after class, each in the order of the names; named CLASS/FILE.
      others: names of the files and folders in between that are neither.
      hidden: names of the hidden ones.
    """

    class_names: tuple[str, ...]
    files: list[ClassFile]
    others: list[str]
    hidden: list[str]


def find_classes(folder: Path, kind: str = "images", suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Classes:
    """The classes of a folder and their files.

    Args:
      folder: that of a split.
      kind: what the files are called in messages.
      suffixes: of their names, in small letters.

    Raises:
      UserError: a folder cannot be read, that of a class holds no such file, or a class is there twice in two
        forms of Unicode.
    """
    folders: dict[str, Entry] = {}
    files, others, hidden = [], [], []
    for entry in scan(folder):
        if entry.is_hidden:
            hidden.append(entry.shown)
        elif not entry.is_folder:
            others.append(entry.shown)
        elif (name := composed(entry.name)) in folders:
            raise UserError(
                f"{folder} holds the class {name!r} twice, in two forms of Unicode; rename one of the folders"
            )
        else:
            folders[name] = entry
    for name in sorted(folders):
        found, rest, unseen = files_in(Path(folders[name].path), suffixes)
        if not found:
            of_class = Path(folders[name].path)
            raise UserError(f"{of_class}: expected {kind} of a class; found {listing(of_class)}")
        files += [ClassFile(name, f"{name}/{file.name}", file.path) for file in found]
        others += [f"{name}/{other}" for other in rest]
        hidden += [f"{name}/{other}" for other in unseen]
    return Classes(tuple(sorted(folders)), files, others, hidden)


def files_in(
    folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> tuple[list[Entry], list[str], list[str]]:
    """The files of a folder, and the names of what else is there, seen and hidden; raises as `scan`."""
    files, others, hidden = [], [], []
    for entry in scan(folder):
        if entry.is_hidden:
            hidden.append(entry.shown)
        elif entry.is_file and entry.name.lower().endswith(suffixes):
            files.append(entry)
        else:
            others.append(entry.shown)
    return files, others, hidden


def scan(folder: Path) -> list[Entry]:
    """All that is in a folder in the order of the names, the hidden too.

    Raises:
      UserError: the folder cannot be read.
    """
    try:
        return retried(lambda: sorted(_entries(folder)), folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {reason(error)}") from None


def _entries(folder: Path) -> list[Entry]:
    with os.scandir(folder) as entries:
        return [Entry(e.name, e.path, _is(e.is_dir), _is(e.is_file)) for e in entries]


def _is(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except OSError as error:
        if may_pass(error):
            raise
        return False  # A link to itself.


def visible(folder: Path) -> list[Entry]:
    """What is in a folder without what is hidden; raises as `scan`."""
    return [entry for entry in scan(folder) if not entry.is_hidden]


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder says that it is none of the user's."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


def composed(name: str) -> str:
    """The name in the form in which names are compared and kept, NFC of Unicode."""
    return unicodedata.normalize("NFC", name)


def listing(folder: Path) -> str:
    """What a message says about a folder: the first names in it, or that there is none."""
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return "a file"
    return _examples([entry.name for entry in visible(folder)], 8) or "nothing"


def left_out(folder: Path, kind: str, others: Sequence[str], hidden: Sequence[str]) -> str | None:
    """The line that tells what was left out of a folder; None where nothing was.

    Folders come first: each can hold many files.
    """
    parts = [
        f"{_examples(sorted(names, key=_is_no_folder), SHOWN)} ({len(names):,} {why})"
        for names, why in ((others, f"not taken for {kind}"), (hidden, "hidden"))
        if names
    ]
    return f"ignored: {', '.join(parts)}, in {folder}" if parts else None


@functools.cache
def tell_once(line: str) -> None:
    """Logs a line that each reader of the same folder has to say."""
    logging.warning("%s", line)


def _is_no_folder(shown: str) -> bool:
    return not shown.endswith("/")


def _examples(names: Sequence[str], shown: int) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
