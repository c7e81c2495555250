"""Events of a still picture before a moving camera, as N-MNIST was recorded, by arithmetic.

A pixel of a dynamic vision sensor remembers the logarithm of the brightness at its last event, and fires as
often as the present one differs from it by a threshold (Lichtsteiner et al. 2008). The pictures are
scikit-learn's digits; the camera makes three small movements along a triangle (Orchard et al. 2015), or it
sweeps there and back.
"""

import dataclasses
import itertools
from typing import Literal

import numpy as np
from PIL import Image

from qsdt_jax.data.events.record import EVENT, check_sensor
from qsdt_jax.data.once import once
from qsdt_jax.data.sources import DigitsSource, Example, SplitName

Movement = Literal["saccades", "sweep"]

THRESHOLD = 0.25  # Of the logarithm of brightness.
DARKNESS = 0.1  # Brightness of black, as a share of white's.
STEP_MICROSECONDS = 1000
STEPS_A_LEG = 8
REACH = 2.5  # Pixels that the camera moves from the middle.
JITTER = 0.5  # Pixels by which the corners of a movement vary.
NOISE = 0.02  # Share of events that come from nowhere.
MARGIN = 1 / 8  # Black border of the picture, as a share of its side.
DIRECTIONS = ("right", "left", "down", "up")


def camera_events(picture: np.ndarray, path: np.ndarray) -> np.ndarray:
    """The events of a picture seen by a camera that moves.

    Args:
      picture: uint8 (H, W).
      path: (K, 2) positions (down, right) of the picture in pixels, one a millisecond.

    Returns:
      (N,) of dtype `EVENT`; events of one millisecond stand in the order of their pixels.
    """
    remembered, found = _log_brightness(picture, path[0]), []
    for k, position in enumerate(path[1:], start=1):
        fired = np.trunc((_log_brightness(picture, position) - remembered) / THRESHOLD)
        remembered = remembered + fired * THRESHOLD
        y, x = np.nonzero(fired)
        number = np.abs(fired[y, x]).astype(np.int64)
        events = np.empty(len(y), EVENT)
        events["t"], events["x"], events["y"] = k * STEP_MICROSECONDS, x, y
        events["p"] = fired[y, x] > 0
        found.append(np.repeat(events, number))
    return np.concatenate(found)


def _log_brightness(picture: np.ndarray, position: np.ndarray) -> np.ndarray:
    down, right = position
    height, width = picture.shape
    shift = (1, 0, -right, 0, 1, -down)
    moved = Image.fromarray(picture).transform(
        (width, height), Image.Transform.AFFINE, shift, Image.Resampling.BILINEAR
    )
    return np.log(np.asarray(moved, np.float64) / 255 + DARKNESS)


def saccades(generator: np.random.Generator) -> np.ndarray:
    """A path along a triangle, its corners varied: to the lower right, up, and back to the lower left."""
    corners = np.array([(-REACH, -REACH), (REACH, 0), (-REACH, REACH), (-REACH, -REACH)])
    return _along(corners + generator.uniform(-JITTER, JITTER, corners.shape))


def sweep(direction: int, generator: np.random.Generator) -> np.ndarray:
    """A path along which the picture moves in one of `DIRECTIONS`, and back again.

    A sweep to the right and back has the events of one to the left and back in another order: the sum over
    time tells the axis, only the order tells the direction.
    """
    axis = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])[direction]
    corners = np.array([-axis, axis, -axis]) * REACH
    return _along(corners + generator.uniform(-JITTER, JITTER, 2))


def _along(corners: np.ndarray) -> np.ndarray:
    """Positions at equal distances along straight legs, ends included once."""
    share = np.arange(1, STEPS_A_LEG + 1)[:, None] / STEPS_A_LEG
    legs = [a + share * (b - a) for a, b in itertools.pairwise(corners)]
    return np.concatenate([corners[:1], *legs])


@dataclasses.dataclass(frozen=True)
class DigitEvents:
    """Event streams of scikit-learn's digits, split as `DigitsSource` is.

    An example is a pure function of (split, movement, size, index).

    Attributes:
      split: "train" (1,437 streams) or "test" (360).
      movement: "saccades", the label is the digit; "sweep", the label is the direction that the picture takes
        first.
      size: side of the sensor in pixels.

    Raises:
      UserError: a larger sensor.
    """

    split: SplitName
    movement: Movement = "saccades"
    size: int = 32

    def __post_init__(self):
        check_sensor(self.sensor_size, "the size of the frames of simulated events")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The digits, or the directions."""
        return self._digits.class_names if self.movement == "saccades" else DIRECTIONS

    @property
    def sensor_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.size, self.size

    def __len__(self) -> int:
        return len(self._digits)

    def __getitem__(self, index: int) -> Example:
        events, label = self._streams[index]
        return {"events": events, "sensor_size": self.sensor_size, "label": label}

    @once
    def _digits(self) -> DigitsSource:
        return DigitsSource(self.split, self.size - 2 * self._margin)

    @property
    def _margin(self) -> int:
        return round(self.size * MARGIN)

    @once
    def _streams(self) -> list[tuple[np.ndarray, int]]:
        return [self._simulate(i) for i in range(len(self))]

    def _simulate(self, index: int) -> tuple[np.ndarray, int]:
        generator = np.random.default_rng([index, self.split == "test", self.movement == "sweep"])
        digit = self._digits[index]
        label = int(digit["label"])
        if self.movement == "saccades":
            path = saccades(generator)
        else:
            label = int(generator.integers(len(DIRECTIONS)))
            path = sweep(label, generator)
        picture = np.pad(np.asarray(digit["image"])[..., 0], self._margin)
        events = camera_events(picture, path)
        return _with_noise(events, generator, self.sensor_size), label


def _with_noise(
    events: np.ndarray, generator: np.random.Generator, sensor_size: tuple[int, int]
) -> np.ndarray:
    """The stream with some events at random pixels and times in between."""
    noise = np.empty(round(NOISE * len(events)), EVENT)
    noise["t"] = generator.integers(events["t"][0], events["t"][-1] + 1, len(noise))
    noise["y"], noise["x"] = (generator.integers(0, size, len(noise)) for size in sensor_size)
    noise["p"] = generator.integers(0, 2, len(noise))
    mixed = np.concatenate([events, noise])
    return mixed[np.argsort(mixed["t"], kind="stable")]
