"""Images of any size in arrays of few sizes: an image takes the smallest bucket that holds it.

Each size of array is one more program to compile, and padding costs time. All here are pure functions of the
sizes of the images, (height, width) in pixels, and so the same in every process.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from qsdt_jax.data.geometry import Size
from qsdt_jax.errors import UserError

STRIDE = 16  # Of a network; it divides the sides of its inputs.


class Bucket(NamedTuple):
    """Sizes of the arrays that hold an image and its annotation."""

    image: Size
    annotation: Size


@dataclasses.dataclass(frozen=True)
class Buckets:
    """How large images are shown whole, and in arrays of which sizes.

    Attributes:
      short_side, long_side: see `scaled`.
      sizes: of the buckets. Without any, sides are rounded up to multiples of those of `grid`; where these
        are half of the short side, and the long side is four times as long, that makes at most 15 buckets.
      grid: multiples of 16.
      annotated: whether the images have annotations; without, the array of an annotation is (0, 0).
    """

    short_side: int
    long_side: int
    sizes: tuple[Size, ...] = ()
    grid: Size = (256, 256)
    annotated: bool = True

    def shown(self, own: Size) -> Size:
        """The size that an image of its own size is shown at."""
        return scaled(own, self.short_side, self.long_side)

    def of(self, own: Size) -> Bucket:
        """The bucket of an image of its own size.

        That of the annotation, which is as large as the image itself, is the image's times 1, 2, 4 and so on,
        the smallest that holds it.

        Raises:
          UserError: no bucket holds it.
        """
        size = self.shown(own)
        image = self._holding(size)
        if image is None:
            sizes = ", ".join(f"{height}x{width}" for height, width in self.sizes)
            raise UserError(
                f"an image of {own[0]}x{own[1]} pixels, shown at {size[0]}x{size[1]}, "
                f"fits none of the buckets {sizes}"
            )
        if not self.annotated:
            return Bucket(image, (0, 0))
        factor = 1
        while not _holds((factor * image[0], factor * image[1]), own):
            factor *= 2
        return Bucket(image, (factor * image[0], factor * image[1]))

    @property
    def largest(self) -> Size | None:
        """The array with the most pixels that an image may be shown in; None where images keep their size."""
        candidates: list[Size] = list(self.sizes)
        if not candidates and self.short_side:
            sides = self.short_side, self.long_side
            candidates = [self._rounded_up(sides), self._rounded_up((self.long_side, self.short_side))]
        return max(candidates, key=lambda size: (size[0] * size[1], size), default=None)

    def _holding(self, size: Size) -> Size | None:
        if not self.sizes:
            return self._rounded_up(size)
        holding = [bucket for bucket in self.sizes if _holds(bucket, size)]
        return min(holding, key=lambda bucket: (bucket[0] * bucket[1], bucket), default=None)

    def _rounded_up(self, size: Size) -> Size:
        height, width = (math.ceil(side / step) * step for side, step in zip(size, self.grid, strict=True))
        return height, width


def grid_of(size: Size) -> Size:
    """Half of a size, as multiples of 16: steps in which buckets grow where none are given."""
    height, width = (math.ceil(side / (2 * STRIDE)) * STRIDE for side in size)
    return height, width


def scaled(
    own: Size, short_side: int, long_side: float, ratio: float = 1.0, within: Size | None = None
) -> Size:
    """The size of an image whose sides keep their ratio.

    Args:
      own: its own size.
      short_side, long_side: the largest that its short and its long side become; 0 for the short side: the
        image keeps its size, whatever the long side.
      ratio: by which the result is larger.
      within: a size that holds the result, which is smaller where it has to be.
    """
    height, width = own
    if short_side:
        ratio *= min(long_side / max(height, width), short_side / min(height, width))
    if within is not None:
        ratio = min(ratio, within[0] / height, within[1] / width)
    return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))


def grouped(buckets: Sequence[Bucket]) -> tuple[tuple[int, ...], ...]:
    """The indices of the images of each bucket, in ascending order; large arrays first.

    What does not fit into memory is then found out at once.
    """
    groups: dict[Bucket, list[int]] = {}
    for index, bucket in enumerate(buckets):
        groups.setdefault(bucket, []).append(index)

    def size(bucket: Bucket) -> tuple[int, int, Bucket]:
        return math.prod(bucket.image), math.prod(bucket.annotation), bucket

    return tuple(tuple(groups[bucket]) for bucket in sorted(groups, key=size, reverse=True))


def _holds(bucket: Size, size: Size) -> bool:
    return bucket[0] >= size[0] and bucket[1] >= size[1]
