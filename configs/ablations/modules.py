"""Study 4, which module is quantised: all at 4 bits but one, and all float but one.

Command   python -m launch ablate --config configs/ablations/modules.py --workdir runs/modules
ImageNet  --config configs/ablations/modules.py:imagenet --config.data.path=DATA, not run here
Data      see small_digits.py
Result    docs/ablations.md
"""

from ml_collections import ConfigDict

from configs.ablations.base import study_base

SEEDS = 3
# The layers of each part.
PARTS = {
    "stem": "downsample1_1/conv",
    "conv": "conv_block.*",
    "down": "downsample(1_2|2|3|4)/conv",
    **{name: f"block.*/attn/{name}_repconv/.*" for name in ("q", "k", "v", "proj")},
    "mlp": "block.*/mlp/.*",
    "head": "head(_dist)?",
}
ROWS = (
    ("all 4 bits", {"model.bits": 4}),
    ("all float", {"model.bits": 32}),
    *(
        (f"{part} float", {"model.bits": 4, "model.bits_rules": ((pattern, 32),)})
        for part, pattern in PARTS.items()
    ),
    *(
        (f"only {part} 4 bits", {"model.bits": 32, "model.bits_rules": ((pattern, 4),)})
        for part, pattern in PARTS.items()
    ),
)
AGAINST = {f"only {part} 4 bits": "all float" for part in PARTS}


def get_config(data: str = "digits") -> ConfigDict:
    """The run that the rows change."""
    return study_base(data)
