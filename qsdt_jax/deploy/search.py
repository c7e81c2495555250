"""The settings of a detector's search for objects, as the manifest of a bundle has them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

from qsdt_jax import bounds
from qsdt_jax.detection.inference import Geometry, Settings


def record_of(settings: Settings) -> dict[str, Any]:
    """Plain data, for JSON."""
    return dataclasses.asdict(settings)


def settings_of(record: Mapping[str, Any]) -> Settings:
    """What `record_of` was made of; raises ValueError where it says what cannot be."""
    found = {**record, "proposals": tuple(record["proposals"])}
    fits = {
        "anchor_scale": _positive(found["anchor_scale"]),
        "geometry": found["geometry"] in get_args(Geometry),
        "proposals": len(found["proposals"]) == 2 and all(map(_count, found["proposals"])),
        "score_threshold": found["score_threshold"] == 0 or _share(found["score_threshold"]),
        "detections": _count(found["detections"]),
        "resolution": _share(found["resolution"]),
    }
    faults = [f"{name} of its detector is {found[name]!r}" for name, fit in fits.items() if not fit]
    if faults:
        raise ValueError(faults[0])
    return Settings(**found)


def _count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= bounds.SAMPLES


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _share(value: Any) -> bool:
    return _positive(value) and value <= 1
