"""Images with objects from folders in the layout of COCO.

    annotations/instances_train2017.json    images train2017/NAME.jpg, or images/train2017/NAME.jpg
    annotations/instances_val2017.json      likewise

What follows "train" and "val" may be anything, also nothing.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from qsdt_jax.data.class_folders import listing, scan, tell_once
from qsdt_jax.data.dense.coco_file import read_coco
from qsdt_jax.data.dense.instances import Category, ListedImage, as_dataset
from qsdt_jax.data.images import read_image
from qsdt_jax.data.prepare.metadata import UNFINISHED
from qsdt_jax.data.sources import Example, SplitName
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.retry import retried

ANNOTATIONS = "annotations"
PREFIXES: dict[SplitName, str] = {"train": "train", "test": "val"}


class CocoSplit(NamedTuple):
    """A split of a data set in this layout, checked.

    Attributes:
      name: that of the folder, as "val2017".
      folder: of the images.
      categories: by ascending ids.
      images: that there are files of; of the training split, those with an object that can be learnt.
      told: a line for each reason for which something was left out or changed.
    """

    name: str
    folder: Path
    categories: tuple[Category, ...]
    images: tuple[ListedImage, ...]
    told: tuple[str, ...]


def find_split(root: Path, split: SplitName) -> CocoSplit:
    """Reads a split.

    Raises:
      UserError: there is no such split, there are several, or its file is corrupt; no image is left.
    """
    file = _file(root, split)
    name = file.stem.removeprefix("instances_")
    folders = [root / name, root / "images" / name]
    folder = next((folder for folder in folders if retried(folder.is_dir, folder)), None)
    if folder is None:
        raise UserError(
            f"{file}: expected its images in {folders[0]} or {folders[1]}; {root} holds {listing(root)}"
        )
    content = read_coco(file)
    told = list(content.told)
    files = _files(folder, {str(PurePosixPath(image.file_name).parent) for image in content.images})
    images = [image for image in content.images if image.file_name in files]
    missing = [image.file_name for image in content.images if image.file_name not in files]
    if missing:
        lost = f"{_counted(len(missing))} whose file is not in {folder}"
        told.append(f"{file}: {lost}, left out ({missing[0]} for one)")
    if split == "train":
        images, empty = learnable(images)
        if empty:
            told.append(f"{file}: {empty}")
    if not images:
        raise UserError(
            f"{file}: expected images in {folder}{' with objects' * (split == 'train')}; found none of "
            f"{len(content.images):,}; {folder} holds {listing(folder)}"
        )
    return CocoSplit(name, folder, content.categories, tuple(images), tuple(told))


def learnable(images: Sequence[ListedImage]) -> tuple[list[ListedImage], str | None]:
    """The images with an object that can be learnt, and a line about the others."""
    usable = [image for image in images if image.usable]
    others = len(images) - len(usable)
    if not others:
        return usable, None
    return usable, f"{_counted(others)} without an object that can be learnt, left out of training"


def has_split(root: Path, split: SplitName) -> bool:
    """Whether there is a file of a split."""
    return bool(_candidates(root, split))


def read_coco_split(root: Path, split: SplitName, channels: int = 3) -> "CocoSource":
    """The split as a source; log lines tell what was left out; raises as `find_split`."""
    found = find_split(root, split)
    for line in found.told:
        tell_once(line)
    return CocoSource(found, channels)


class CocoSource:
    """Images with their objects, read from their files one by one.

    Examples are {"image": uint8 (H, W, C), "index": int} with the "boxes", "category" and "masks" of
    `instances.ListedImage.objects`. N may be 0 in evaluation.

    Args:
      split: what there is.
      channels: of the images, 1 for grey or 3 for RGB.

    Attributes:
      class_names: of the categories, by ascending ids.
      split: the name of the split, as "val2017".
    """

    def __init__(self, split: CocoSplit, channels: int = 3):
        self._split, self._channels = split, channels
        self.class_names = tuple(category.name for category in split.categories)
        self.split = split.name

    def __len__(self) -> int:
        return len(self._split.images)

    def __getitem__(self, index: int) -> Example:
        """The example.

        Raises:
          CorruptRecord: the image is damaged, or of another size than its entry says.
          UserError: it is gone or cannot be read, also not after a while (see `retried`).
        """
        listed = self._split.images[index]
        file = self._split.folder / listed.file_name
        image = read_image(file, self._channels)
        require_size(image.shape[:2], listed.size, str(file))
        return {"image": image, "index": index, **listed.objects()}

    def size_of(self, index: int) -> tuple[int, int]:
        """(height, width) of an image, as its entry says."""
        return self._split.images[index].size

    @property
    def truth(self) -> dict[str, Any]:
        """What the split is scored against, crowds included: see `instances.as_dataset`."""
        return as_dataset(self._split.images, self._split.categories)

    def __reduce__(self):
        return CocoSource, (self._split, self._channels)


def require_size(found: tuple[int, ...], listed: tuple[int, int], name: str) -> None:
    """Refuses an image whose boxes are those of another size; raises CorruptRecord."""
    if found != listed:
        raise CorruptRecord(
            f"{name}: the image is {found[0]}x{found[1]}; expected {listed[0]}x{listed[1]} as its entry says"
        )


def _candidates(root: Path, split: SplitName) -> list[Path]:
    folder = root / ANNOTATIONS
    if not retried(folder.is_dir, folder):
        return []
    start = f"instances_{PREFIXES[split]}"
    return [
        folder / entry.name
        for entry in scan(folder)
        if entry.is_file and entry.name.startswith(start) and entry.name.endswith(".json")
    ]


def _file(root: Path, split: SplitName) -> Path:
    expected = f"{ANNOTATIONS}/instances_{PREFIXES[split]}*.json"
    if retried((root / UNFINISHED).is_dir, root):
        raise UserError(f"{root} is not finished; give the command that prepares it again")
    found = _candidates(root, split)
    if not found:
        holds = root / ANNOTATIONS if (root / ANNOTATIONS).is_dir() else root
        raise UserError(f"{root}: expected {expected} of COCO; {holds} holds {listing(holds)}")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{root}: expected one file {expected}; found {names}")
    return found[0]


def _files(folder: Path, parts: set[str]) -> set[str]:
    """The names of the files in some folders within a folder."""
    found = set()
    for part in parts:
        inner = folder / part
        if retried(inner.is_dir, inner):
            within = "" if part == "." else f"{part}/"
            found |= {within + entry.name for entry in scan(inner) if entry.is_file}
    return found


def _counted(images: int) -> str:
    return f"{images:,} image{'s' * (images > 1)}"
