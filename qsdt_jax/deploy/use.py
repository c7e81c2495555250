"""How a detector of a bundle is used: sizes of its images, and what runs between its networks."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

from qsdt_jax import bounds
from qsdt_jax.data.buckets import STRIDE
from qsdt_jax.data.geometry import Size
from qsdt_jax.detection.inference import Geometry, Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorUse:
    """What a detector is told besides its weights.

    Attributes:
      settings: of the search for objects.
      short_side, long_side: of images as they are shown, see `data.buckets.scaled`.
      buckets: sizes of the arrays that hold them, see `data.buckets.Buckets`.
    """

    settings: Settings
    short_side: int
    long_side: int
    buckets: tuple[Size, ...]

    def record(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        settings = dataclasses.asdict(self.settings)
        sizes = {"short_side": self.short_side, "long_side": self.long_side, "buckets": self.buckets}
        return {**settings, **sizes}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "DetectorUse":
        """What `record` gave; raises ValueError where it says what cannot be."""
        found = dict(record)
        short, long, buckets = (found.pop(name) for name in ("short_side", "long_side", "buckets"))
        found["proposals"] = tuple(found["proposals"])
        buckets = tuple(tuple(size) for size in buckets)
        faults = [
            name
            for name, fits in (
                ("anchor_scale", _positive(found["anchor_scale"])),
                ("geometry", found["geometry"] in get_args(Geometry)),
                ("proposals", len(found["proposals"]) == 2 and all(map(_count, found["proposals"]))),
                ("score_threshold", found["score_threshold"] == 0 or _share(found["score_threshold"])),
                ("detections", _count(found["detections"])),
                ("resolution", _share(found["resolution"])),
            )
            if not fits
        ]
        if faults:
            raise ValueError(f"{faults[0]} of its detector is {found[faults[0]]!r}")
        if not (_count(short, bounds.SIDE) and _count(long, bounds.SIDE) and short <= long):
            raise ValueError(f"sides of its images are {short!r} and {long!r}")
        for size in buckets:
            if len(size) != 2 or not all(_count(side, bounds.SIDE) and side % STRIDE == 0 for side in size):
                raise ValueError(f"an array of {size} pixels; expected two multiples of {STRIDE}")
        return cls(settings=Settings(**found), short_side=short, long_side=long, buckets=buckets)


def _count(value: Any, largest: int = bounds.SAMPLES) -> bool:
    return type(value) is int and 1 <= value <= largest


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _share(value: Any) -> bool:
    return _positive(value) and value <= 1
