"""Study 8: the networks that the paper compares itself with, beside its own, at equal steps.

Command   python -m launch ablate --config configs/ablations/baselines.py --workdir runs/baselines
Data      see small_digits.py
Result    QSD 87.9, SDT-V2 86.9, SpikingResformer 98.6 % in the mean of three seeds; docs/ablations.md

Each row has four slots for spikes: D = 4 with T = 1, or D = 1 with T = 4. Rate, length and optimiser are
those of the first row; no other row was tuned. SpikingResformer has twice the parameters. Two rows differ
from what is published:

* Spike-driven Transformer V2 has a start of its own. From the published one a network of this size cannot be
  trained: its gradient explodes. Here the batch norms before the neurons of q, k and v start with a bias of
  2, at which binary neurons of one step fire.
* SpikingResformer has one pair of blocks in each stage. Its stem, that of ImageNet, leaves 8x8 pixels: with
  the one for small images a step takes many times as long on a CPU.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.ablations.small_digits import small_digits
from configs.base import base_config
from configs.imagenet_sdtv2 import NETWORK

SEEDS = 3
SIZE: dict[str, Any] = {
    "model.channels": (8, 16, 24, 32),
    "model.depth": 4,
    "model.num_heads": 4,
    "model.exact_evaluation": False,
}
SDTV2 = {**SIZE, **{f"model.{name}": value for name, value in NETWORK.items()}, "model.timesteps": 4}
RESFORMER = {
    "model.timesteps": 4,
    "resformer.channels": (16, 32, 32),
    "resformer.num_heads": (2, 4, 4),
    "resformer.depths": (1, 1, 1),
}
ROWS = (
    ("QSD", {**SIZE, "model.layer_scale_init": 0.1}),
    ("SDT-V2, T = 4, own start", {**SDTV2, "model.qkv_bias_init": 2.0}),
    ("SpikingResformer, T = 4", RESFORMER),
)


def get_config() -> ConfigDict:
    """The run that the rows change, of which they give the network."""
    config = small_digits()
    config.model = base_config().model
    return config
