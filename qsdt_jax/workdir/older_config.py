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


def in_todays_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration whose keys of then, where it has any, are those of today."""
    config, model = dict(config), config.get("model")
    if isinstance(model, Mapping) and isinstance(parts := model.get("module_bits"), Mapping):
        rules = [[pattern, parts[name]] for name, pattern in PARTS.items() if parts.get(name)]
        others = {key: value for key, value in model.items() if key != "module_bits"}
        config["model"] = {**others, "bits_rules": rules}
    return config
