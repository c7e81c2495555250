"""Transfer on the embedded data: a net that has seen the digits 0 to 4 learns 5 to 9, at another image size.

Before    python -m launch --config configs/digits_transfer.py:pretrain --workdir runs/pretrain
Command   python -m launch --config configs/digits_transfer.py --workdir runs/transfer \
            --config.start_from=runs/pretrain
Data      scikit-learn's digits; 0 to 4 at 32x32 for pre-training, 5 to 9 at 48x48 for the transfer
Expected  85.0, 93.4, 89.2 % test top-1 of the five digits (seeds 0, 1, 2, run here); without `start_from`,
          at the same 33 steps, 56.9, 38.9, 30.5 %. The head starts anew: the classes are others.
          Pre-training: 97.9, 99.0, 95.3 % of its own five. The longer both train, the less it leads
          (docs/benchmarks.md). All before commit 7116aca, which changed the head's initial values
All runs  python -m launch ablate --config configs/ablations/transfer.py --workdir runs/transfer_study
"""

from ml_collections import ConfigDict

from configs.digits import get_config as digits


def get_config(variant: str = "") -> ConfigDict:
    """The transfer, or with the variant "pretrain" what comes before it; ValueError for another variant."""
    if variant not in ("", "pretrain"):
        raise ValueError(f"unknown variant {variant!r}; there is 'pretrain'")
    config = digits()
    config.eval.batch_size = 180
    if variant == "pretrain":
        config.epochs = 15
        config.data.classes = ("0", "1", "2", "3", "4")
        return config
    config.data.classes = ("5", "6", "7", "8", "9")
    config.data.image_size = (48, 48)
    config.epochs = 3
    config.optimizer.warmup_epochs = 0.5
    config.eval.every_epochs = 1.0
    return config
