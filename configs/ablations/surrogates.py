"""Study 5: surrogate gradients, initial layer scale and attention scale.

Command   python -m launch ablate --config configs/ablations/surrogates.py --workdir runs/surrogates
ImageNet  --config configs/ablations/surrogates.py:imagenet --config.data.path=DATA, not run here
Data      see small_digits.py
Result    layer scale 1 fails (26.8 against 79.8 %, each of three seeds); nothing else is beyond the noise;
          run before commit 7116aca, which changed the head's initial values; docs/ablations.md

"Rectangular" is the straight-through gradient written as a sum of bumps, the same function: how far its row
is from the first one is the noise of the study.
"""

from ml_collections import ConfigDict

from configs.ablations.base import study_base

SEEDS = 3
ROWS = (
    ("straight through, layer scale 0.1, attention scale 0.25", {}),
    ("rectangular", {"model.surrogate": "rectangular"}),
    ("triangle", {"model.surrogate": "triangle"}),
    ("sigmoid", {"model.surrogate": "sigmoid"}),
    ("arctan", {"model.surrogate": "arctan"}),
    ("layer scale 1e-6", {"model.layer_scale_init": 1e-6}),
    ("layer scale 1", {"model.layer_scale_init": 1.0}),
    ("attention scale 0.125", {"model.attention_scale": 0.125}),
    ("attention scale 1", {"model.attention_scale": 1.0}),
)


def get_config(data: str = "digits") -> ConfigDict:
    """The run that the rows change; its scales are those that the first row names."""
    config = study_base(data)
    config.model.layer_scale_init = 0.1
    config.model.attention_scale = 0.25
    return config
