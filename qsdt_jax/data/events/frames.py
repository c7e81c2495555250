"""Event streams -> frames: what a network with real time steps sees.

A stream of (t, x, y, p) becomes T frames of counts, one channel for each polarity, and one for
their sum where the network takes it. Flips and rolls move the
events themselves, so they cost nothing and lose nothing.
"""

import dataclasses
from typing import Literal

import numpy as np

from qsdt_jax.data.events.record import as_events
from qsdt_jax.data.sources import Example

Slicing = Literal["count", "time", "sum"]
EventAugmentation = Literal["none", "roll", "flip_roll"]
POLARITIES = 2
WITH_SUM = POLARITIES + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventPreprocess:
    """From an event stream to a network input.

    Attributes:
      size: (height, width) of the frames.
      timesteps: T.
      slicing: see `make_frames`.
      augmentation: of the events, in training. "none"; "roll", a shift; "flip_roll", also mirrored.
      roll: largest shift in pixels of the sensor.
      channels: C, 2, or 3 with the sum of both polarities as the third (published code of SpikingResformer).
    """

    size: tuple[int, int]
    timesteps: int
    slicing: Slicing = "count"
    augmentation: EventAugmentation = "none"
    roll: int = 0
    channels: int = POLARITIES

    @property
    def normalization(self) -> None:
        """Frames are inputs."""

    @property
    def buckets(self) -> None:
        """All have one size."""

    def train(self, example: Example, generator: np.random.Generator) -> Example:
        """The example with "image", float32 (T, H, W, C), in place of events moved as the generator says."""
        events, (height, width) = _proven(example), example["sensor_size"]
        if self.augmentation == "flip_roll":
            events = random_flip(events, generator, width)
        if self.augmentation != "none":
            events = random_roll(events, generator, (height, width), roll=self.roll)
        return self._framed(events, example)

    def evaluate(self, example: Example) -> Example:
        """The example with "image", float32 (T, H, W, C), in place of its events; nothing random."""
        return self._framed(_proven(example), example)

    def _framed(self, events: np.ndarray, example: Example) -> Example:
        frames = make_frames(events, example["sensor_size"], self.size, self.timesteps, self.slicing)
        if self.channels == WITH_SUM:
            frames = np.concatenate((frames, frames.sum(-1, keepdims=True)), axis=-1)
        others = {name: value for name, value in example.items() if name not in ("events", "sensor_size")}
        return {**others, "image": frames}


def _proven(example: Example) -> np.ndarray:
    """The events of an example of any source; those that it should not have would be counted elsewhere."""
    return as_events(np.asarray(example["events"]), example["sensor_size"], "an event stream")


def make_frames(
    events: np.ndarray, sensor_size: tuple[int, int], size: tuple[int, int], timesteps: int, slicing: Slicing
) -> np.ndarray:
    """Frames of event counts.

    Args:
      events: (N,) with fields t, x, y, p, in the order of time; where a recording is not, "time" goes by its
        times and the others by its order.
      sensor_size: (height, width) of the sensor in pixels.
      size: (height, width) of the frames; pixels of the sensor are pooled or spread to it.
      timesteps: T.
      slicing: "count" cuts the stream into T pieces of equal event count (the field's habit for
        CIFAR10-DVS), "time" into T pieces of equal duration; "sum" shows the mean of all pieces T times,
        which is what is left without the order of time.

    Returns:
      float32 (T, H, W, 2); channel 0 holds events of falling, channel 1 of rising brightness.
    """
    height, width = size
    if slicing == "time":
        since = events["t"].astype(np.int64) - int(events["t"].min())
        frame = since * timesteps // (int(since.max()) + 1)
    else:
        frame = np.arange(len(events), dtype=np.int64) * timesteps // len(events)
    row = events["y"].astype(np.int64) * height // sensor_size[0]
    column = events["x"].astype(np.int64) * width // sensor_size[1]
    cell = ((frame * height + row) * width + column) * POLARITIES + events["p"]
    shape = (timesteps, height, width, POLARITIES)
    frames = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape).astype(np.float32)
    return np.broadcast_to(frames.mean(0), shape).copy() if slicing == "sum" else frames


def random_flip(events: np.ndarray, generator: np.random.Generator, width: int) -> np.ndarray:
    """The stream mirrored left and right with probability one half; `width` of the sensor in pixels."""
    if generator.random() < 0.5:
        return events
    moved = events.copy()
    moved["x"] = width - 1 - events["x"]
    return moved


def random_roll(
    events: np.ndarray, generator: np.random.Generator, sensor_size: tuple[int, int], *, roll: int
) -> np.ndarray:
    """The stream shifted by up to `roll` pixels in rows and columns, around the edges of the sensor."""
    moved = events.copy()
    for field, size in zip(("y", "x"), sensor_size, strict=True):
        shift = int(generator.integers(-roll, roll + 1))
        moved[field] = (events[field].astype(np.int64) + shift) % size
    return moved
