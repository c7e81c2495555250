"""Folders of images and of annotations: one way to pair them, for training on them and for preparing them.

    ADE20K     images/training/NAME.jpg and annotations/training/NAME.png; likewise "validation"
    segfolder  images/train/NAME.jpg and masks/train/NAME.png; likewise "val"; classes.txt, one name a line

An image and its annotation have the same name but for the suffix, in the same place of the two folders, which
may have folders in them. What has no partner is left out, and so are hidden files and those that are neither
images nor annotations; `told` says it in one line.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qsdt_jax.data.class_folders import composed, left_out, listing, scan
from qsdt_jax.data.images import IMAGE_SUFFIXES
from qsdt_jax.data.index_images import ANNOTATION_SUFFIXES, Numbering
from qsdt_jax.data.prepare.metadata import UNFINISHED
from qsdt_jax.data.sources import SplitName
from qsdt_jax.errors import UserError
from qsdt_jax.retry import reason, retried

ADE20K_NAMES = "objectInfo150.txt"
ADE20K_CLASSES = 150
MOST_CLASSES = 65_534  # That numbers of 16 bits tell apart, besides 0 and 65535 for what is ignored.
FOLDER_NAMES = "classes.txt"
LEVELS = ("", "*/", "*/*/")  # Below the given folder, where the folders of ADE20K may lie.


class Pair(NamedTuple):
    """An image and its annotation, by the name that they have in common."""

    name: str
    image: str
    annotation: str


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of a split in the order of their names, and what was left out.

    Attributes:
      pairs: what was found.
      folders: that of the images and that of the annotations.
      alone: images without an annotation and annotations without an image, by their places, as
        "images/val/NAME.jpg".
      others: places of files and folders that are neither.
      hidden: places of those that are hidden.
    """

    pairs: Sequence[Pair]
    folders: tuple[Path, Path]
    alone: Sequence[str]
    others: Sequence[str]
    hidden: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set lies, and what its numbers mean.

    Attributes:
      root: folder that holds all.
      annotations: folder in it, beside "images".
      folders: names that the folder of a split may have, by the split.
      class_names: in the order of the classes.
      numbering: of the annotations.
    """

    root: Path
    annotations: str
    folders: dict[SplitName, tuple[str, ...]]
    class_names: tuple[str, ...]
    numbering: Numbering

    def has(self, split: SplitName) -> bool:
        """Whether there is a folder of images for a split."""
        return any(is_folder(self.root / "images" / name) for name in self.folders[split])

    def pairs(self, split: SplitName) -> Pairs:
        """The pairs of a split.

        Raises:
          UserError: a folder is missing or cannot be read, or the split has no pair.
        """
        names = self.folders[split]
        name = next((n for n in names if is_folder(self.root / "images" / n)), names[0])
        images, annotations = (self.root / kind / name for kind in ("images", self.annotations))
        for folder in (images, annotations):
            if not is_folder(folder):
                raise UserError(
                    f"{folder} is no folder; expected {images}/NAME.jpg and {annotations}/NAME.png; "
                    f"{folder.parent} holds {listing(folder.parent)}"
                )
        return find_pairs(images, annotations)


def ade20k_layout(path: Path) -> Layout:
    """That of ADE20K, at or up to two folders below a path.

    The names of the classes are those of objectInfo150.txt; without it, they are 1 to 150.

    Raises:
      UserError: there is none, or several.
    """
    roots = [
        folder
        for level in LEVELS
        for folder in sorted({f.parents[1] for f in path.glob(f"{level}images/training") if f.is_dir()})
    ]
    if not roots:
        raise UserError(
            f"{path}: expected images/training/NAME.jpg and annotations/training/NAME.png of ADE20K in it or "
            f"up to two folders below; found {listing(path)}"
        )
    if len(roots) > 1 and roots[0] != path:
        raise UserError(
            f"{path} holds ADE20K several times; expected one of {', '.join(map(str, roots[:5]))}"
        )
    root = roots[0]
    if is_folder(root / UNFINISHED):
        raise UserError(f"{root} is not finished; give the command that prepares it again")
    names = tuple(map(str, range(1, ADE20K_CLASSES + 1)))
    if file := next((f for f in (root / ADE20K_NAMES, root.parent / ADE20K_NAMES) if f.is_file()), None):
        names = _checked(file, _ade20k_names(file))
    folders: dict[SplitName, tuple[str, ...]] = {"train": ("training",), "test": ("validation",)}
    return Layout(root, "annotations", folders, names, Numbering(len(names), reduce_zero_label=True))


def segfolder_layout(path: Path, *, reduce_zero_label: bool = False) -> Layout:
    """That of a pair of folders of one's own, with the names of the classes in classes.txt.

    Args:
      path: folder of all.
      reduce_zero_label: see `Numbering`; the first line of classes.txt is then the name of number 1.

    Raises:
      UserError: classes.txt is missing, or is no list of names.
    """
    file = path / FOLDER_NAMES
    if not file.is_file():
        raise UserError(
            f"{file}: expected the names of the classes, one a line; {path} holds {listing(path)}"
        )
    names = _checked(file, [line.strip() for line in _text(file).strip().splitlines()])
    folders: dict[SplitName, tuple[str, ...]] = {"train": ("train",), "test": ("val",)}
    return Layout(path, "masks", folders, names, Numbering(len(names), reduce_zero_label))


def find_pairs(images: Path, annotations: Path) -> Pairs:
    """The images and annotations of two folders that belong together.

    Raises:
      UserError: a folder cannot be read, two files have the same name, or nothing belongs together.
    """
    found = _Found.of(images, IMAGE_SUFFIXES), _Found.of(annotations, ANNOTATION_SUFFIXES)
    both = found[0].files.keys() & found[1].files.keys()
    if not both:
        raise UserError(
            f"no image in {images} has an annotation in {annotations}; expected NAME.jpg and NAME.png; found "
            f"{len(found[0].files):,} images ({listing(images)}) and {len(found[1].files):,} annotations "
            f"({listing(annotations)})"
        )
    of_folder = [
        (f"{folder.parent.name}/{folder.name}/", one)
        for folder, one in zip((images, annotations), found, strict=True)
    ]
    pairs = [
        Pair(name, str(images / found[0].files[name]), str(annotations / found[1].files[name]))
        for name in sorted(both)
    ]
    return Pairs(
        pairs,
        (images, annotations),
        [
            within + file
            for within, one in of_folder
            for name, file in sorted(one.files.items())
            if name not in both
        ],
        [within + other for within, one in of_folder for other in one.others],
        [within + other for within, one in of_folder for other in one.hidden],
    )


def told(pairs: Pairs) -> list[str]:
    """Lines that tell what was left out of a split."""
    images, annotations = pairs.folders
    where = f"{images} and {annotations}"
    lines = []
    if line := left_out(Path(where), "images or annotations", pairs.others, pairs.hidden):
        lines.append(line)
    if pairs.alone:
        shown = f"{pairs.alone[0]} for one"
        lines.append(f"ignored: {len(pairs.alone):,} files without image or annotation ({shown}), in {where}")
    return lines


class _Found(NamedTuple):
    """Files by their names without suffix, and what else is there."""

    files: dict[str, str]
    others: list[str]
    hidden: list[str]

    @classmethod
    def of(cls, folder: Path, suffixes: tuple[str, ...]) -> "_Found":
        found = cls({}, [], [])
        waiting = [""]
        while waiting:
            within = waiting.pop()
            for entry in scan(folder / within):
                place = within + entry.shown
                name = composed(within + Path(entry.name).stem)
                if entry.is_hidden:
                    found.hidden.append(place)
                elif entry.is_folder:
                    waiting.append(place)
                elif not (entry.is_file and entry.name.lower().endswith(suffixes)):
                    found.others.append(place)
                elif name in found.files:
                    raise UserError(
                        f"{folder} holds {found.files[name]} and {place}; expected names that differ in more "
                        "than the suffix"
                    )
                else:
                    found.files[name] = place
        return found


def _ade20k_names(file: Path) -> list[str]:
    """The names of a table "Idx Ratio Train Val Stuff Name", columns by tabs or several spaces."""
    rows = [re.split(r"\t| {2,}", line.strip()) for line in _text(file).strip().splitlines()]
    numbers = [row[0].strip() for row in rows[1:]]
    if numbers != [str(i + 1) for i in range(len(numbers))] or not numbers:
        raise UserError(
            f"{file}: expected a line of titles and lines of Idx, ..., Name with Idx from 1 on; "
            f"found Idx {', '.join(numbers[:3]) or 'of no line'}"
        )
    return [row[-1].strip() for row in rows[1:]]


def _checked(file: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes from a file, in the form in which all sources give them."""
    found = tuple(map(composed, names))
    if not all(found) or not found:
        raise UserError(
            f"{file}: line {found.index('') + 1 if found else 1} is empty; expected the name of a class"
        )
    if len(found) > MOST_CLASSES:
        raise UserError(f"{file} names {len(found):,} classes; expected at most {MOST_CLASSES:,}")
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise UserError(f"{file} has the class {twice!r} twice")
    return found


def _text(file: Path) -> str:
    try:
        return retried(lambda: file.read_text(encoding="utf-8-sig"), file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {reason(error)}") from None


def is_folder(path: Path) -> bool:
    """Whether a folder is there; raises UserError where the disk does not tell."""
    return retried(path.is_dir, path)
