"""The keys of a nested configuration, written with dots as they are overridden: "model.bits"."""

import functools
import operator
from typing import Any

from ml_collections import ConfigDict


def config_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """All keys of a configuration, in order."""
    keys = []
    for key in config:
        value = config.get_ref(key).get() if not isinstance(config[key], ConfigDict) else config[key]
        keys += config_keys(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [prefix + key]
    return keys


def value_of(config: ConfigDict, key: str) -> Any:
    """That of one key."""
    return functools.reduce(operator.getitem, key.split("."), config)
