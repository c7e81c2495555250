"""Study 1, components: what of the network does what, at 4-bit weights.

Command   python -m launch ablate --config configs/ablations/components.py --workdir runs/components
ImageNet  --config configs/ablations/components.py:imagenet --config.data.path=DATA, not run here
Data      see small_digits.py
Result    docs/ablations.md

Against the first row. "quantised ReLU" is a quantised ANN with as many levels: with T = 1 it is the same
function as IE-LIF, so the two rows must be equal number for number; with softmax attention it is an ordinary
quantised transformer. IE-LIF with D = 1 differs from LIF with T = 1 in the threshold: 1/2 instead of 1.
"""

from ml_collections import ConfigDict

from configs.ablations.base import study_base
from configs.twin import FLOAT_TWIN

SEEDS = 5
# The teacher of a run is the run of that row with the same seed.
FGD = {"distill.teacher": "row:float twin", "distill.fgd": 0.1}
ROWS = (
    ("IE-LIF", {}),
    ("LIF, T = 1", {"model.neuron": "lif", "model.levels": 1}),
    ("IE-LIF, FGD", FGD),
    ("IE-LIF, D = 1", {"model.levels": 1}),
    ("I-LIF", {"model.neuron": "i_lif"}),
    ("IE-LIF, rectify", {"model.rectify": "norm"}),
    ("IE-LIF, FGD, logit KD", {**FGD, "distill.kd": 1.0}),
    ("quantised ReLU", {"model.neuron": "quantized_relu"}),
    ("quantised ReLU, softmax", {"model.neuron": "quantized_relu", "model.attention": "softmax"}),
    ("LIF, T = 4", {"model.neuron": "lif", "model.levels": 1, "model.timesteps": 4}),
    ("float twin", FLOAT_TWIN),
)


def get_config(data: str = "digits") -> ConfigDict:
    """The run that the rows change."""
    return study_base(data)
