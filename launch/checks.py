"""Checks of single values of a configuration: each mistake is one line with the key and what it allows."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from qsdt_jax.errors import UserError


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
