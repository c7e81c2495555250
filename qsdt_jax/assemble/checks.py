"""Checks of single values of a configuration: each mistake is one line with the key and what it allows."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from qsdt_jax import bounds as limits
from qsdt_jax.errors import UserError

FLOAT32 = 3.4e38  # About its largest number.


def choice(key: str, value: str, allowed) -> Any:
    """The value, or what it stands for in a mapping; refuses one that is not allowed."""
    if value not in allowed:
        raise UserError(f"config.{key}={value!r} is none of {', '.join(allowed)}")
    return allowed[value] if isinstance(allowed, Mapping) else value


def check_within(config: ml_collections.ConfigDict, limits: Mapping[str, tuple[float, float]]) -> None:
    """Refuses values that are not finite or outside of their limits, which are allowed themselves."""
    for key, (smallest, largest) in limits.items():
        value = value_of(config, key)
        if not (math.isfinite(value) and smallest <= value <= largest):
            upper = f" and at most {largest:g}" if math.isfinite(largest) else ""
            raise UserError(f"config.{key}={value} must be at least {smallest}{upper}")


# Largest values of keys; what is least, and what fits what, is checked where it is used.
LARGEST: Mapping[str, float] = {
    "epochs": limits.STEPS_OF_A_RUN,
    "batch_size": limits.BATCH,
    "accumulate": limits.BATCH,
    "model.channels": limits.CHANNELS,
    "model.depth": limits.DEPTH,
    "model.num_heads": limits.FACTOR,
    "model.mlp_ratio": limits.FACTOR,
    "model.levels": limits.LEVELS,
    "model.timesteps": limits.TIMESTEPS,
    "model.norm_group": limits.BATCH,
    "model.attention_scale": FLOAT32,
    "model.layer_scale_init": FLOAT32,
    "data.digits_images": limits.IMAGES,
    "data.image_size": limits.SIDE,
    "data.channels": limits.CHANNELS,
    "data.mean": FLOAT32,
    "data.std": FLOAT32,
    "data.workers": limits.WORKERS,
    "data.fake_images": limits.IMAGES,
    "data.fake_classes": limits.CLASSES,
    "data.mixup": FLOAT32,
    "data.cutmix": FLOAT32,
    "optimizer.learning_rate": FLOAT32,
    "optimizer.weight_decay": FLOAT32,
    "optimizer.clip_norm": FLOAT32,
    "parallel.fsdp": limits.PROCESSES,
    "distill.fgd": FLOAT32,
    "distill.kd": FLOAT32,
    "distill.temperature": FLOAT32,
    "eval.batch_size": limits.BATCH,
}


def check_sizes(config: ml_collections.ConfigDict) -> None:
    """Refuses numbers that no run has, before anything is made of them; called wherever a config comes in.

    Raises:
      UserError: names the first of them.
    """
    for key, largest in LARGEST.items():
        value = value_of(config, key)
        for number in value if isinstance(value, tuple | list) else (value,):
            if not isinstance(number, int | float):
                continue  # What a tuple holds is told by who reads it.
            if not abs(number) <= largest:
                shown = largest if isinstance(largest, int) else f"{largest:.3g}"
                raise UserError(f"config.{key}={_short(value)} must be at most {shown}")
    crop = config.data.eval_crop_ratio
    if 0 < crop < limits.SMALLEST_CROP:
        raise UserError(f"config.data.eval_crop_ratio={crop} must be at least {limits.SMALLEST_CROP}")


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**30:  # Python itself refuses to write very long ones.
        return "a number of more than 30 digits"
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def bounds(config: ml_collections.ConfigDict, key: str, largest: float) -> tuple[float, float]:
    """A pair 0 < low <= high <= largest."""
    values = tuple(value_of(config, key))
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    if not (len(values) == 2 and numbers and 0 < values[0] <= values[1] <= largest):
        upper = f" <= {largest:g}" if math.isfinite(largest) else ""
        raise UserError(f"config.{key}={values} must be a pair 0 < low <= high{upper}")
    return values


def whole_numbers(config: ml_collections.ConfigDict, key: str, count: int) -> tuple[int, ...]:
    """The `count` elements of a tuple, whose number and types the flag parser does not check."""
    values = tuple(value_of(config, key))
    if len(values) != count or not all(isinstance(value, int) for value in values):
        raise UserError(f"config.{key}={values} must be {count} whole numbers")
    return values


def value_of(config: ml_collections.ConfigDict, key: str) -> Any:
    """That of a key with dots."""
    return functools.reduce(lambda tree, name: tree[name], key.split("."), config)


def is_finite(value: Any) -> bool:
    """Whether it is a number and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
