"""Masks as COCO writes them, polygons and run-length codes, and the bitmaps that they mean.

A run-length code counts the pixels of 0 and of 1 in turn, column after column, beginning with those of 0; it
is a list of numbers or, compressed, a text. pycocotools decodes; it is imported where it is used, since an
installation without the extra `data` has none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qsdt_jax import bounds
from qsdt_jax.data.geometry import Size
from qsdt_jax.errors import UserError

Mask = tuple[np.ndarray, ...] | bytes
"""Polygons, each float64 (2n,) of x, y, x, y, ...; or a compressed run-length code."""

POINTS = 3  # Of a polygon, at least.
FARTHEST = 2 * bounds.SIDE  # Pixels from the corner of the image; polygons are drawn point by point.
BITS, LAST_BIT, CONTINUED, FIRST_CHARACTER = 5, 16, 32, 48  # Of a compressed code.
LONGEST = 12  # Characters of a number of it: those of 64 bits have fewer than 13.


class UnusableMask(Exception):
    """A mask that says nothing of its image; the message follows "a mask "."""


def as_mask(segmentation: Any, size: Size) -> Mask:
    """The checked mask in COCO's "segmentation"; polygons of fewer than three points are left out.

    Args:
      segmentation: a list of polygons, or {"size": [height, width], "counts": a list or a text}.
      size: (height, width) of the image.

    Raises:
      UnusableMask: no polygon is left, a coordinate is too far away, or the code is of another size.
      UserError: something else; the message follows the name of the annotation.
    """
    if isinstance(segmentation, dict):
        return _as_code(segmentation, size)
    if not isinstance(segmentation, list):
        raise UserError(
            f"has the segmentation {_short(segmentation)}; expected polygons or a run-length code"
        )
    polygons = []
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, np.float64)
        except (TypeError, ValueError):
            points = np.empty((0, 0))
        if points.ndim != 1 or points.size % 2 or not np.isfinite(points).all():
            raise UserError(f"has the polygon {_short(polygon)}; expected numbers x, y, x, y, ...")
        if points.size >= 2 * POINTS:
            polygons.append(points)
    if not polygons:
        raise UnusableMask("without a polygon of three points")
    if max(np.abs(points).max() for points in polygons) > FARTHEST:
        raise UnusableMask(f"farther than {FARTHEST:,} pixels from its image")
    return tuple(polygons)


def encoded(mask: Mask, size: Size) -> bytes:
    """The compressed run-length code of a mask."""
    from pycocotools import mask as coco

    if isinstance(mask, bytes):
        return mask
    codes = coco.frPyObjects([points.tolist() for points in mask], *size)
    return _code(coco.merge(codes))


def bitmaps(masks: Sequence[Mask], size: Size) -> np.ndarray:
    """bool (N, H, W) of N masks of an image of size (H, W)."""
    from pycocotools import mask as coco

    if not masks:
        return np.zeros((0, *size), bool)
    codes: Any = [{"size": list(size), "counts": encoded(mask, size)} for mask in masks]
    return coco.decode(codes).transpose(2, 0, 1).view(bool)


def area(mask: Mask, size: Size) -> int:
    """Pixels of a mask."""
    from pycocotools import mask as coco

    return int(coco.area({"size": list(size), "counts": encoded(mask, size)}))


def rectangle(box: Sequence[float]) -> Mask:
    """The mask of all of a box (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    return (np.array([x0, y0, x1, y0, x1, y1, x0, y1], np.float64),)


def as_segmentation(mask: Mask, size: Size) -> Any:
    """As COCO's files have it."""
    if isinstance(mask, bytes):
        return {"size": list(size), "counts": mask.decode("ascii")}
    return [points.tolist() for points in mask]


def run_lengths(code: bytes) -> np.ndarray | None:
    """int64, the runs that a compressed code counts; None where it is none."""
    groups = np.frombuffer(code, np.uint8).astype(np.int64) - FIRST_CHARACTER
    if not groups.size or groups.min() < 0 or groups.max() >= 2 * CONTINUED or groups[-1] & CONTINUED:
        return None
    ends = np.flatnonzero(~groups & CONTINUED)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > LONGEST:
        return None
    places = np.arange(groups.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & (CONTINUED - 1)) << (BITS * places), starts)
    numbers -= np.where(groups[ends] & LAST_BIT, 1 << (BITS * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])  # From the fourth on they are differences to the last but one.
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _as_code(segmentation: dict[str, Any], size: Size) -> bytes:
    from pycocotools import mask as coco

    counts, of = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(of, list) or len(of) != 2 or not isinstance(counts, list | str):
        raise UserError(f"has the segmentation {_short(segmentation)}; expected its size and counts")
    if of != list(size):
        raise UnusableMask("of another size than its image")
    if isinstance(counts, str):
        code = counts.encode("ascii", "replace")
        runs = run_lengths(code)
    else:
        if not all(type(run) is int for run in counts):
            raise UserError(f"has the counts {_short(counts)}; expected whole numbers")
        runs, code = counts, b""
    if runs is None or min(runs, default=-1) < 0 or sum(map(int, runs)) != size[0] * size[1]:
        raise UnusableMask("whose runs do not fill its image")
    if code:
        return code
    uncompressed: Any = {"size": list(size), "counts": counts}
    return _code(coco.frPyObjects(uncompressed, *size))


def _code(compressed: Any) -> bytes:
    """Of what pycocotools gives, whose stubs leave open whether it is a text."""
    return compressed["counts"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
