"""Pascal VOC, and the many small data sets in its format.

    JPEGImages/NAME.jpg    Annotations/NAME.xml    ImageSets/Main/{train,val}.txt, a name a line

Without train.txt, trainval.txt names the training images, and without val.txt test.txt those of evaluation.
The pixels of a box have the numbers xmin..xmax and ymin..ymax, both included and counted from 1. There are no
masks: all of a box is taken for that of its object. Difficult objects are marked as crowds, so that they are
neither learnt nor counted against a network that finds them.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from qsdt_jax import bounds
from qsdt_jax.data.class_folders import composed, listing, scan
from qsdt_jax.data.dense.coco_masks import rectangle
from qsdt_jax.data.dense.coco_source import learnable
from qsdt_jax.data.dense.instances import Category, Instance, ListedImage
from qsdt_jax.data.images import IMAGE_SUFFIXES
from qsdt_jax.data.prepare.detection import records
from qsdt_jax.data.prepare.records import TRAIN, VALIDATION, DataSet
from qsdt_jax.errors import UserError
from qsdt_jax.retry import content_of

IMAGES, ANNOTATIONS, SETS = "JPEGImages", "Annotations", "ImageSets/Main"
LISTS = {TRAIN: ("train.txt", "trainval.txt"), VALIDATION: ("val.txt", "test.txt")}
LEVELS = ("", "*/", "*/*/")  # Below the given folder, as in VOCdevkit/VOC2012.


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]  # (x0, y0, x1, y1).
    difficult: bool


class _Annotated(NamedTuple):
    file_name: str
    size: tuple[int, int]
    objects: list[_Object]


def read_voc(source: Path) -> DataSet:
    """The images of a data set with their objects; of the training images those with objects to learn.

    Raises:
      UserError: the folders or the list of training images are not there, or an annotation is corrupt.
    """
    root = _root(source)
    told = [f"{root}: there are no masks; all of a box is taken for that of its object"]
    found = _splits(root, told)
    objects = [one for of_split in found.values() for image in of_split for one in image.objects]
    names = sorted({one.name for one in objects})
    categories = [Category(number, name) for number, name in enumerate(names, start=1)]
    if empty := sum(not _has_area(one) for one in objects):
        told.append(f"{root}: {empty:,} objects with boxes without area, left out")
    images = _numbered(found, {name: place for place, name in enumerate(names)})
    images[TRAIN], unlearnable = learnable(images[TRAIN])
    if unlearnable:
        told.append(f"{root}: {unlearnable}")
    return DataSet(
        name="voc",
        description="Images with boxes of objects, in the format of Pascal VOC.",
        source=source,
        class_names=names,
        categories=categories,
        splits={split: records(root, root / IMAGES, of_split) for split, of_split in images.items()},
        kind="detection",
        told=told,
    )


def _splits(root: Path, told: list[str]) -> dict[str, list[_Annotated]]:
    """What the lists name; a line of `told` says what is not there."""
    listed = [entry.name for entry in scan(root / IMAGES) if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    files = {composed(Path(name).stem): name for name in listed}
    found: dict[str, list[_Annotated]] = {}
    for split, lists in LISTS.items():
        names = _names(root, lists)
        if names is None:
            continue
        whole = {name for name in names if name in files and _annotation(root, name).is_file()}
        missing = [name for name in names if name not in whole]
        if missing:
            told.append(
                f"{root}: {len(missing):,} names of the {split} split have no image or no annotation, "
                f"left out ({missing[0]} for one)"
            )
        found[split] = [_annotated(_annotation(root, name), files[name]) for name in names if name in whole]
    if TRAIN not in found:
        expected = " or ".join(LISTS[TRAIN])
        raise UserError(f"{root / SETS}: expected {expected}; found {listing(root / SETS)}")
    return found


def _root(source: Path) -> Path:
    found = [
        folder
        for level in LEVELS
        for folder in sorted({path.parent for path in source.glob(f"{level}{IMAGES}")})
        if (folder / ANNOTATIONS).is_dir() and (folder / SETS).is_dir()
    ]
    if not found:
        raise UserError(
            f"{source}: expected {IMAGES}, {ANNOTATIONS} and {SETS} of VOC in it or up to two folders below; "
            f"found {listing(source)}"
        )
    if len(found) > 1 and found[0] != source:
        raise UserError(f"{source} holds VOC several times; expected one of {', '.join(map(str, found[:5]))}")
    return found[0]


def _annotation(root: Path, name: str) -> Path:
    return root / ANNOTATIONS / f"{name}.xml"


def _names(root: Path, lists: tuple[str, ...]) -> list[str] | None:
    """The first words of the lines of the first list that is there, each once."""
    file = next((root / SETS / name for name in lists if (root / SETS / name).is_file()), None)
    if file is None:
        return None
    lines = content_of(file).decode("utf-8", "replace").splitlines()
    return list(dict.fromkeys(composed(line.split()[0]) for line in lines if line.strip()))


def _annotated(file: Path, image: str) -> _Annotated:
    try:
        root = ElementTree.fromstring(content_of(file))
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is no XML, or damaged: {error}") from None
    height, width = (int(_number(file, root, f"size/{side}")) for side in ("height", "width"))
    if not (0 < height <= bounds.SIDE and 0 < width <= bounds.SIDE):
        raise UserError(f"{file}: an image of {height}x{width}; expected sides of 1 to {bounds.SIDE} pixels")
    objects = []
    for entry in root.findall("object"):
        name = composed((entry.findtext("name") or "").strip())
        if not name:
            raise UserError(f"{file}: an object has no name")
        x0, y0, x1, y1 = (_number(file, entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        difficult = (entry.findtext("difficult") or "0").strip() == "1"
        objects.append(_Object(name, (x0 - 1, y0 - 1, x1, y1), difficult))
    return _Annotated(image, (height, width), objects)


def _has_area(one: _Object) -> bool:
    x0, y0, x1, y1 = one.box
    return x1 > x0 and y1 > y0


def _number(file: Path, element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    try:
        number = float(text or "")
    except ValueError:
        number = float("nan")
    if not abs(number) <= 2 * bounds.SIDE:
        raise UserError(f"{file}: {element.tag} has {path}={text!r}; expected a number of pixels")
    return number


def _numbered(found: dict[str, list[_Annotated]], places: dict[str, int]) -> dict[str, list[ListedImage]]:
    """The images of each split with numbers of images and of objects, from 1 on through all splits."""
    image_number, object_number = itertools.count(1), itertools.count(1)

    def instances(image: _Annotated) -> Iterator[Instance]:
        for one in filter(_has_area, image.objects):
            x0, y0, x1, y1 = one.box
            bbox, area = (x0, y0, x1 - x0, y1 - y0), (x1 - x0) * (y1 - y0)
            mask = rectangle(one.box)
            yield Instance(next(object_number), places[one.name], bbox, area, one.difficult, mask)

    return {
        split: [
            ListedImage(next(image_number), image.file_name, image.size, tuple(instances(image)))
            for image in of_split
        ]
        for split, of_split in found.items()
    }
