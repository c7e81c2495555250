"""Transfer on the embedded digits: how much of 0 to 4 helps to learn 5 to 9, at another image size.

Command   python -m launch ablate --config configs/ablations/transfer.py --workdir runs/transfer
Rows      both runs of configs/digits_transfer.py, and the second one from drawn weights, at equal steps;
          pre-training has other classes, so it compares with no other row
Result    transfer 89.2 %, from scratch 42.1 % (means of 3 seeds, each 28 to 59 points better, too few for a
          p; run here before commit 7116aca, which changed the head's initial values; docs/benchmarks.md)
"""

from ml_collections import ConfigDict

from configs.digits_transfer import get_config as digits_transfer

SEEDS = 3
BEFORE = digits_transfer("pretrain")
ROWS = (
    (
        "pre-training",
        {
            "data.classes": BEFORE.data.classes,
            "data.image_size": BEFORE.data.image_size,
            "epochs": BEFORE.epochs,
            "optimizer.warmup_epochs": BEFORE.optimizer.warmup_epochs,
            "eval.every_epochs": BEFORE.eval.every_epochs,
        },
    ),
    ("transfer", {"start_from": "row:pre-training"}),
    ("from scratch", {}),
)
AGAINST = {"transfer": "from scratch"}


def get_config() -> ConfigDict:
    """The run that starts from another."""
    return digits_transfer()
