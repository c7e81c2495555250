"""Random images with objects, for benchmarks and tests."""

import dataclasses
from typing import Any

import numpy as np

from qsdt_jax.data.dense.coco_masks import rectangle
from qsdt_jax.data.dense.instances import Category, Instance, ListedImage, as_dataset
from qsdt_jax.data.sources import Example, FakeSized

MOST_OBJECTS = 5  # Of an image; every sixth or so has none.


@dataclasses.dataclass(frozen=True)
class FakeObjects(FakeSized):
    """Random images of several sizes with boxes of random colours, a pure function of the index.

    Attributes:
      length: number of examples.
      shape: (H, W, C); the sides of an image are 3/4 to 5/4 of these.
      classes: number of categories.
    """

    def __getitem__(self, index: int) -> Example:
        listed, generator = self._listed(index), np.random.default_rng((index, 2))
        channels = self.shape[2]
        image = generator.integers(0, 256, (*listed.size, channels), np.uint8)
        for one in listed.instances:
            x, y, width, height = map(int, one.bbox)
            image[y : y + height, x : x + width] = generator.integers(0, 256, channels, np.uint8)
        return {"image": image, "index": index, **listed.objects()}

    @property
    def truth(self) -> dict[str, Any]:
        """What they are scored against, see `instances.as_dataset`."""
        categories = [Category(i + 1, name) for i, name in enumerate(self.class_names)]
        return as_dataset([self._listed(index) for index in range(len(self))], categories)

    def _listed(self, index: int) -> ListedImage:
        size, generator = self.size_of(index), np.random.default_rng((index, 1))
        instances = []
        for place in range(int(generator.integers(MOST_OBJECTS, endpoint=True))):
            height, width = (int(generator.integers(min(8, side), side, endpoint=True)) for side in size)
            y, x = (
                int(generator.integers(side - length, endpoint=True))
                for side, length in zip(size, (height, width), strict=True)
            )
            category = int(generator.integers(self.classes))
            mask = rectangle((x, y, x + width, y + height))
            number = 1 + index * MOST_OBJECTS + place
            instances.append(Instance(number, category, (x, y, width, height), width * height, False, mask))
        return ListedImage(index + 1, f"{index}.png", size, tuple(instances))
