"""Configurations of older versions, told in today's keys."""

from collections.abc import Mapping
from typing import Any

# The key `model.module_bits` held the bits of each part, 0 for those of the rest.
PARTS = {
    "stem": "downsample1_1/conv",
    "conv": "conv_block.*",
    "down": "downsample(1_2|2|3|4)/conv",
    "q": "block.*/attn/q_repconv/.*",
    "k": "block.*/attn/k_repconv/.*",
    "v": "block.*/attn/v_repconv/.*",
    "proj": "block.*/attn/proj_repconv/.*",
    "mlp": "block.*/mlp/.*",
    "head": "head(_dist)?",
}
# Keys of then, by which somebody may still call those of today.
RENAMED = {"model.module_bits": "model.bits_rules"}


def renamed(key: str) -> str:
    """What a message about an unknown key adds: "; it is 'model.bits_rules' now", or nothing."""
    now = [new for old, new in RENAMED.items() if f"{key}.".startswith(f"{old}.")]
    return f"; it is {now[0]!r} now" if now else ""


def in_todays_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration whose keys of then, where it has any, are those of today."""
    config, model = dict(config), config.get("model")
    if isinstance(model, Mapping) and isinstance(parts := model.get("module_bits"), Mapping):
        rules = [[pattern, parts[name]] for name, pattern in PARTS.items() if parts.get(name)]
        others = {key: value for key, value in model.items() if key != "module_bits"}
        config["model"] = {**others, "bits_rules": rules}
    return config
