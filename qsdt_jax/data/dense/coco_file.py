"""The files instances_*.json of COCO, and of all data sets in its format.

What is corrupt is refused: entries without what they need, or of other types, and numbers that stand for two
things. What is merely of no use is left out, counted, and told in one line for each reason.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from qsdt_jax import bounds
from qsdt_jax.data.class_folders import composed
from qsdt_jax.data.dense.coco_masks import Mask, UnusableMask, area, as_mask, rectangle
from qsdt_jax.data.dense.instances import Category, Instance, ListedImage, inside
from qsdt_jax.data.geometry import Size
from qsdt_jax.errors import UserError
from qsdt_jax.files import read_json

ROUNDING = 0.05  # Pixels by which boxes may reach beyond their images, being written with few digits.
MOST = 2**62  # Of an id.
LARGEST = 1e30  # Of any other number.


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """What such a file says.

    Attributes:
      categories: by ascending ids; the place of a category is its number in examples.
      images: by ascending ids, with all their objects that can be scored.
      told: a line for each reason for which something was left out or changed.
    """

    categories: tuple[Category, ...]
    images: tuple[ListedImage, ...]
    told: tuple[str, ...]


def read_coco(file: Path) -> CocoFile:
    """Reads and checks a file.

    Raises:
      UserError: it is missing, no JSON, or corrupt.
    """
    try:
        content = read_json(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; expected a file instances_*.json of COCO") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise UserError(f"{file}: expected lists of {', '.join(parts)}")
    return _Reading(file).read(*(content[part] for part in parts))


class _Reading:
    """One reading of a file; counts what is of no use."""

    def __init__(self, file: Path):
        self._file = file
        self._counts: dict[str, tuple[int, int]] = {}  # Number and first id, by the line.

    def read(self, images: list[Any], annotations: list[Any], categories: list[Any]) -> CocoFile:
        named = self._categories(categories)
        places = {category.id: place for place, category in enumerate(named)}
        listed = self._by_id("image", images)
        sizes = {number: self._size(number, entry) for number, entry in listed.items()}
        found: dict[int, list[Instance]] = {number: [] for number in listed}
        for number, entry in self._by_id("annotation", annotations).items():
            image, category = (
                self._number(f"annotation {number}", entry, key) for key in ("image_id", "category_id")
            )
            if image not in listed:
                self._count("{} of images that it does not list, left out", number)
            elif category not in places:
                self._count("{} of categories that it does not list, left out", number)
            elif instance := self._instance(number, entry, places[category], sizes[image]):
                found[image].append(instance)
        return CocoFile(
            named,
            tuple(
                ListedImage(
                    number, self._file_name(number, listed[number]), sizes[number], tuple(found[number])
                )
                for number in sorted(listed)
            ),
            tuple(
                f"{self._file}: "
                + line.format(f"{count:,} annotation{'s' * (count > 1)}")
                + f" ({first} for one)"
                for line, (count, first) in self._counts.items()
            ),
        )

    def _count(self, line: str, number: int) -> None:
        count, first = self._counts.get(line, (0, number))
        self._counts[line] = count + 1, first

    def _by_id(self, kind: str, entries: list[Any]) -> dict[int, Mapping[str, Any]]:
        found: dict[int, Mapping[str, Any]] = {}
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise UserError(f"{self._file}: {kind} in place {place} is no entry with an id")
            number = self._number(f"the {kind} in place {place}", entry, "id")
            if number in found:
                several = "categories" if kind == "category" else f"{kind}s"
                raise UserError(f"{self._file}: two {several} have the id {number}")
            found[number] = entry
        return found

    def _value(self, what: str, entry: Mapping[str, Any], key: str) -> Any:
        if key not in entry:
            raise UserError(f"{self._file}: {what} has no {key!r}")
        return entry[key]

    def _number(self, what: str, entry: Mapping[str, Any], key: str) -> int:
        value = self._value(what, entry, key)
        if type(value) is not int or not -MOST <= value <= MOST:
            raise UserError(f"{self._file}: {what} has {key}={value!r}; expected a whole number")
        return value

    def _categories(self, entries: list[Any]) -> tuple[Category, ...]:
        found = []
        for number, entry in sorted(self._by_id("category", entries).items()):
            name = self._value(f"category {number}", entry, "name")
            if not isinstance(name, str) or not name:
                raise UserError(f"{self._file}: category {number} has the name {name!r}; expected a text")
            found.append(Category(number, composed(name)))
        names = [category.name for category in found]
        if not names:
            raise UserError(f"{self._file}: expected categories; found none")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{self._file}: two categories have the name {twice!r}")
        return tuple(found)

    def _size(self, number: int, entry: Mapping[str, Any]) -> Size:
        height, width = (self._number(f"image {number}", entry, key) for key in ("height", "width"))
        if not (0 < height <= bounds.SIDE and 0 < width <= bounds.SIDE):
            raise UserError(
                f"{self._file}: image {number} is {height}x{width}; "
                f"expected sides of 1 to {bounds.SIDE} pixels"
            )
        return height, width

    def _file_name(self, number: int, entry: Mapping[str, Any]) -> str:
        name = self._value(f"image {number}", entry, "file_name")
        path = PurePosixPath(name) if isinstance(name, str) and "\0" not in name else None
        if path is None or not path.name or path.is_absolute() or ".." in path.parts:
            raise UserError(f"{self._file}: image {number} has file_name={name!r}; expected a name of a file")
        return str(path)

    def _instance(self, number: int, entry: Mapping[str, Any], category: int, size: Size) -> Instance | None:
        """An object that can be scored, or None."""
        what = f"annotation {number}"
        bbox = self._bbox(what, entry)
        if bbox[2] < 0 or bbox[3] < 0:
            self._count("{} with boxes of a negative side, left out", number)
            return None
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise UserError(f"{self._file}: {what} has iscrowd={crowd!r}; expected 0 or 1")
        mask = self._mask(number, entry, bbox, size)
        if mask is None:
            return None
        covered = entry.get("area")
        if covered is None:
            covered = area(mask, size)
        if not _is_number(covered):
            raise UserError(f"{self._file}: {what} has area={covered!r}; expected a number")
        instance = Instance(number, category, bbox, covered, bool(crowd), mask)
        if not crowd:
            self._count_box(instance, size)
        return instance

    def _bbox(self, what: str, entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
        bbox = self._value(what, entry, "bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
            raise UserError(
                f"{self._file}: {what} has bbox={bbox!r}; expected four numbers x, y, width, height"
            )
        x, y, width, height = bbox
        return x, y, width, height

    def _count_box(self, instance: Instance, size: Size) -> None:
        if not ListedImage(0, "", size, (instance,)).usable:
            self._count("{} with boxes or masks smaller than a pixel, not learnt", instance.id)
            return
        x, y, width, height = instance.bbox
        written, clipped = (x, y, x + width, y + height), inside(instance.bbox, size)
        if max(abs(one - other) for one, other in zip(written, clipped, strict=True)) > ROUNDING:
            self._count("{} with boxes that reach beyond their images, clipped", instance.id)

    def _mask(
        self, number: int, entry: Mapping[str, Any], bbox: tuple[float, float, float, float], size: Size
    ) -> Mask | None:
        """None where it is of no use."""
        segmentation = entry.get("segmentation")
        if segmentation is None or segmentation == []:
            self._count("{} without a mask, for which their boxes are taken", number)
            return rectangle(inside(bbox, size))
        try:
            mask = as_mask(segmentation, size)
        except UnusableMask as reason:
            self._count(f"{{}} with a mask {reason}, left out", number)
            return None
        except UserError as error:
            raise UserError(f"{self._file}: annotation {number} {error}") from None
        if isinstance(mask, tuple) and len(mask) < len(segmentation):
            self._count(
                "{} with polygons of fewer than three points beside others, which are left out", number
            )
        return mask


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST  # Not so of a NaN.
