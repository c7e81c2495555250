"""Study 6, segmentation of scenes of digits: what pre-training adds, and what the neuron does.

Before    python -m launch prepare digit-scenes --out data/digit_scenes
          python -m launch --config configs/digits.py --config.model.neuron=i_lif --workdir runs/digits_i_lif
Command   python -m launch ablate --config configs/ablations/scenes.py --workdir runs/scenes_study
Data      3,000 scenes to train and 200 to test, see configs/digit_scenes_seg.py
Result    docs/segmentation.md

All rows have equal steps, a quarter of those of the config. The second one starts from one network, whatever
the seed.
"""

from ml_collections import ConfigDict

from configs.digit_scenes_seg import TWIN
from configs.digit_scenes_seg import get_config as digit_scenes_seg

SEEDS = 3
ROWS = (
    ("I-LIF, from scratch", {}),
    (
        "I-LIF, from the digits",
        # As many tokens as its images of 32x32 had.
        {"start_from": "runs/digits_i_lif", "model.attention_tokens": 4},
    ),
    ("IE-LIF", {"model.neuron": "ie_lif"}),
    ("IE-LIF, D = 1", {"model.neuron": "ie_lif", "model.levels": 1}),
    ("float twin", TWIN),
)


def get_config() -> ConfigDict:
    """The first row."""
    config = digit_scenes_seg()
    config.steps //= 4
    return config
