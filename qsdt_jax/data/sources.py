"""Index-addressable sources: `len(source)` examples, `source[i]` one of them.

An example is a dict. Those of the sources here are {"image": uint8 (H, W, C), "label": int}; of images with
annotations {"image": uint8 (H, W, C), "annotation": unsigned (H, W)}, see `dense.annotations`; of an event
camera {"events": (N,) of dtype `events.record.EVENT`, "sensor_size": (height, width) in pixels,
"label": int}. Sources pickle, and those with labels know the names of their classes.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from qsdt_jax.data.class_folders import find_classes, left_out, tell_once
from qsdt_jax.data.dense.annotations import annotation_dtype, ignored
from qsdt_jax.data.events.record import EVENT, check_sensor
from qsdt_jax.data.images import read_image
from qsdt_jax.data.once import once
from qsdt_jax.errors import UserError
from qsdt_jax.memory import require_memory
from qsdt_jax.retry import retried

SplitName = Literal["train", "test"]
Example = dict[str, Any]

DIGITS = tuple("0123456789")
DIGITS_TEST_IMAGES = 360
DIGITS_SPLIT_SEED = 0
DIGITS_NOISE_SEED = 1
DIGITS_WHITE = 16


class Source(Protocol):
    """A split of a data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class LabelledSource(Source, Protocol):
    """A split whose examples have a "label", the index of one of its classes."""

    @property
    def class_names(self) -> tuple[str, ...]: ...


class SizedSource(Source, Protocol):
    """A split of images that tells their sizes at little cost."""

    def size_of(self, index: int) -> tuple[int, int]:
        """(height, width) of the image at an index, without decoding its pixels."""
        ...


@dataclasses.dataclass(frozen=True)
class DigitsSource:
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels and 17 grey levels, upscaled.

    The split is fixed: a permutation with seed 0, of which the last 360 images are the test split.

    Attributes:
      split: "train" (1,437 images) or "test" (360).
      size: side of the upscaled image in pixels (bicubic).
      class_names: the digits to take, in the order of their labels.
      images: of the training split, the first so many; None for all.
      noise: standard deviation of normal noise on the pixels of 8x8, in units of the range from black to
        white; the same in every epoch, and in both splits.
    """

    split: SplitName
    size: int = 32
    class_names: tuple[str, ...] = DIGITS
    images: int | None = None
    noise: float = 0.0

    def __len__(self) -> int:
        return len(self._arrays[1])

    def __getitem__(self, index: int) -> Example:
        images, labels = self._arrays
        return {"image": images[index], "label": int(labels[index])}

    @once
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits  # A second to import, and only this source needs it.

        digits = load_digits()
        order = np.random.default_rng(DIGITS_SPLIT_SEED).permutation(len(digits.target))
        split = order[:-DIGITS_TEST_IMAGES] if self.split == "train" else order[-DIGITS_TEST_IMAGES:]
        labels = {int(name): label for label, name in enumerate(self.class_names)}
        taken = [i for i in split if digits.target[i] in labels]
        if self.split == "train":
            taken = taken[: self.images]
        require_memory(len(taken) * self.size**2, f"{len(taken)} digits of {self.size}x{self.size} pixels")
        pixels = digits.images / DIGITS_WHITE
        if self.noise:
            drawn = np.random.default_rng(DIGITS_NOISE_SEED).standard_normal(pixels.shape)
            pixels = np.clip(pixels + self.noise * drawn, 0, 1)
        images = np.stack([_upscale(pixels[i], self.size) for i in taken])
        return images[..., None], np.array([labels[digits.target[i]] for i in taken], np.int32)


def _upscale(digit: np.ndarray, size: int) -> np.ndarray:
    grey = np.round(digit * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC))


class FolderSource:
    """Images in one folder per class, `root/split/class/name.jpg`, as `class_folders` finds them.

    A log line tells what was left out. An image that is gone when it is read, or whose bytes the disk does
    not give, is an error and not a corrupt record: these are other data than those that the run began with.

    Raises:
      UserError: the folder is missing, or it or the folder of a class holds no images.
    """

    def __init__(self, root: str | Path, split: str, channels: int = 3):
        folder = Path(root) / split
        if not retried(folder.is_dir, folder):
            raise UserError(f"{folder} is not a folder; expected {root}/{split}/CLASS/IMAGE.jpg")
        found = find_classes(folder)
        if not found.files:
            raise UserError(f"{folder} holds no images; expected {root}/{split}/CLASS/IMAGE.jpg")
        if line := left_out(folder, "images", found.others, found.hidden):
            tell_once(line)
        self.class_names, self.split, self._channels = found.class_names, split, channels
        labels = {name: label for label, name in enumerate(found.class_names)}
        self._files = [(file.path, labels[file.class_name]) for file in found.files]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path, label = self._files[index]
        return {"image": read_image(path, self._channels), "label": label}


@dataclasses.dataclass(frozen=True)
class FakeSource:
    """Random pixels and labels, a pure function of the index; for benchmarks and tests.

    Attributes:
      length: number of examples.
      shape: (H, W, C) of an image.
      classes: number of classes.
    """

    length: int
    shape: tuple[int, int, int]
    classes: int

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(i) for i in range(self.classes))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        generator = np.random.default_rng(index)
        image = generator.integers(0, 256, self.shape, np.uint8)
        return {"image": image, "label": int(generator.integers(self.classes))}


@dataclasses.dataclass(frozen=True)
class FakeSized:
    """What random images of several sizes share.

    Attributes:
      length: number of examples.
      shape: (H, W, C); the sides of an image are 3/4 to 5/4 of these.
      classes: number of classes.
    """

    length: int
    shape: tuple[int, int, int]
    classes: int

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(i) for i in range(self.classes))

    def __len__(self) -> int:
        return self.length

    def size_of(self, index: int) -> tuple[int, int]:
        generator = np.random.default_rng((index, 0))
        height, width = (
            int(generator.integers(-(-3 * side // 4), 5 * side // 4 + 1)) for side in self.shape[:2]
        )
        return height, width


@dataclasses.dataclass(frozen=True)
class FakeAnnotated(FakeSized):
    """Random images of several sizes with annotations, a pure function of the index; as `FakeSource`.

    The annotation is a grid of 4 x 4 cells of one class each, or of none.

    Attributes:
      length: number of examples.
      shape: (H, W, C); the sides of an image are 3/4 to 5/4 of these.
      classes: number of classes, below 65,536.
    """

    def __getitem__(self, index: int) -> Example:
        height, width = self.size_of(index)
        generator = np.random.default_rng((index, 1))
        image = generator.integers(0, 256, (height, width, self.shape[2]), np.uint8)
        dtype = annotation_dtype(self.classes)
        cells = generator.integers(0, self.classes + 1, (4, 4))
        cells = np.where(cells == self.classes, ignored(dtype), cells).astype(dtype)
        rows, columns = (np.arange(side) * 4 // side for side in (height, width))
        return {"image": image, "annotation": cells[rows[:, None], columns]}


@dataclasses.dataclass(frozen=True)
class FakeEvents:
    """Random events and labels, a pure function of the index; for benchmarks and tests.

    Attributes:
      length: number of streams.
      sensor_size: (height, width) in pixels.
      classes: number of classes.
      events: length of a stream.

    Raises:
      UserError: a larger sensor.
    """

    length: int
    sensor_size: tuple[int, int]
    classes: int
    events: int = 10_000

    def __post_init__(self):
        check_sensor(self.sensor_size, "the size of the frames of fake events")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(i) for i in range(self.classes))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        generator = np.random.default_rng(index)
        events = np.empty(self.events, EVENT)
        events["t"] = np.arange(self.events)
        for field, size in zip("yxp", (*self.sensor_size, 2), strict=True):
            events[field] = generator.integers(0, size, self.events)
        label = int(generator.integers(self.classes))
        return {"events": events, "sensor_size": self.sensor_size, "label": label}
