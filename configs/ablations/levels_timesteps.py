"""Study 3, levels against time steps: D in 1, 2, 4, 8 with T in 1, 2, 4.

Command   python -m launch ablate --config configs/ablations/levels_timesteps.py --workdir runs/levels
ImageNet  --config configs/ablations/levels_timesteps.py:imagenet --config.data.path=DATA, not run here
Data      see small_digits.py
Result    docs/ablations.md
"""

from ml_collections import ConfigDict

from configs.ablations.base import study_base

SEEDS = 3
SPIKES = True  # Counts the spikes of every run on the test split.
ROWS = (
    ("D = 4, T = 1", {"model.levels": 4, "model.timesteps": 1}),
    ("D = 1, T = 1", {"model.levels": 1, "model.timesteps": 1}),
    ("D = 2, T = 1", {"model.levels": 2, "model.timesteps": 1}),
    ("D = 8, T = 1", {"model.levels": 8, "model.timesteps": 1}),
    ("D = 1, T = 2", {"model.levels": 1, "model.timesteps": 2}),
    ("D = 2, T = 2", {"model.levels": 2, "model.timesteps": 2}),
    ("D = 4, T = 2", {"model.levels": 4, "model.timesteps": 2}),
    ("D = 8, T = 2", {"model.levels": 8, "model.timesteps": 2}),
    ("D = 1, T = 4", {"model.levels": 1, "model.timesteps": 4}),
    ("D = 2, T = 4", {"model.levels": 2, "model.timesteps": 4}),
    ("D = 4, T = 4", {"model.levels": 4, "model.timesteps": 4}),
    ("D = 8, T = 4", {"model.levels": 8, "model.timesteps": 4}),
)


def get_config(data: str = "digits") -> ConfigDict:
    """The run that the rows change."""
    return study_base(data)
