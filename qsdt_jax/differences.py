"""Where nested plain data, as those of a configuration, differ."""

import json
from collections.abc import Mapping
from typing import Any


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of each key of nested plain data that differs, in order."""
    # Through JSON, so that a tuple equals the list it was stored as.
    before, after = (json.loads(json.dumps(_flatten(tree))) for tree in (old, new))
    missing = "(absent)"
    values = (
        (key, before.get(key, missing), after.get(key, missing)) for key in before.keys() | after.keys()
    )
    return sorted((key, one, other) for key, one, other in values if one != other)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
