"""A source of images of several sizes with annotations, in memory, for tests."""

import dataclasses

import numpy as np

from qsdt_jax.data.sources import Example

SIZES = ((20, 30), (33, 17), (16, 16), (40, 48), (20, 30), (1, 1), (31, 33), (64, 20), (16, 17))


@dataclasses.dataclass(frozen=True)
class Annotated:
    """Images that say which they are: all pixels are the index, and so is the class."""

    sizes: tuple[tuple[int, int], ...] = SIZES
    class_names = tuple(map(str, range(50)))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Example:
        size = self.sizes[index]
        return {
            "image": np.full((*size, 3), index + 1, np.uint8),
            "annotation": np.full(size, index, np.uint8),
        }

    def size_of(self, index: int) -> tuple[int, int]:
        return self.sizes[index]


def coordinates(size: tuple[int, int]) -> Example:
    """An example whose image and annotation tell the place of each pixel.

    In the image red is 4 x the row, green 4 x the column, and blue is full. The annotation is uint16, 256 x
    the row + the column. Sides are at most 63 pixels.
    """
    row, column = np.indices(size)
    image = np.stack([4 * row, 4 * column, np.full(size, 255)], axis=-1).astype(np.uint8)
    return {"image": image, "annotation": (256 * row + column).astype(np.uint16)}
