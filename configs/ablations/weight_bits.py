"""Study 2, weight bits: 1 to 8 and float, without and with FGD.

Command   python -m launch ablate --config configs/ablations/weight_bits.py --workdir runs/weight_bits
ImageNet  --config configs/ablations/weight_bits.py:imagenet --config.data.path=DATA, not run here
Data      see small_digits.py
Result    docs/ablations.md
"""

from ml_collections import ConfigDict

from configs.ablations.base import study_base
from configs.twin import FLOAT_TWIN

SEEDS = 3
FGD = {"distill.teacher": "row:float twin", "distill.fgd": 0.1}
ROWS = (
    ("4 bits", {"model.bits": 4}),
    ("4 bits, FGD", {"model.bits": 4, **FGD}),
    ("1 bit", {"model.bits": 1}),
    ("1 bit, FGD", {"model.bits": 1, **FGD}),
    ("2 bits", {"model.bits": 2}),
    ("2 bits, FGD", {"model.bits": 2, **FGD}),
    ("3 bits", {"model.bits": 3}),
    ("3 bits, FGD", {"model.bits": 3, **FGD}),
    ("8 bits", {"model.bits": 8}),
    ("8 bits, FGD", {"model.bits": 8, **FGD}),
    ("32 bits", {"model.bits": 32}),
    ("32 bits, FGD", {"model.bits": 32, **FGD}),
    ("float twin", FLOAT_TWIN),
)
AGAINST = {name: name.removesuffix(", FGD") for name, _ in ROWS if name.endswith(", FGD")}


def get_config(data: str = "digits") -> ConfigDict:
    """The run that the rows change."""
    return study_base(data)
