"""Handwritten digits on a laptop: a small 4-bit, D = 4 net from scratch.

Command   python -m launch --config configs/digits.py --workdir runs/digits
Variant   configs/digits.py:twin, the float twin that can teach (ReLU, softmax attention); then
          --config.distill.teacher=runs/twin --config.distill.fgd=0.1
Data      scikit-learn's 1,797 digits, 1,437 to train and 360 to test, upscaled to 32x32
Expected  98.6 to 98.9 % test top-1 (seeds 0 to 2, run here); 151 to 207 s on two CPU cores with compilation
"""

from ml_collections import ConfigDict

from configs.base import base_config
from configs.twin import FLOAT_TWIN


def get_config(variant: str = "") -> ConfigDict:
    """The embedded default run; "twin": the same layout in float; ValueError for another variant."""
    if variant not in ("", "twin"):
        raise ValueError(f"unknown variant {variant!r}; there is 'twin'")
    config = base_config()
    config.epochs = 30
    config.batch_size = 64
    config.model.channels = (16, 32, 48, 64)
    config.model.depth = 4
    config.model.layer_scale_init = 0.1
    if variant == "twin":
        config.update_from_flattened_dict(FLOAT_TWIN)
    config.data.source = "digits"
    config.data.channels = 1
    config.data.mean = (0.31,)
    config.data.std = (0.35,)
    config.data.augmentation = "affine"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_epochs = 2.0
    config.loss.label_smoothing = 0.1
    config.eval.every_epochs = 5.0
    config.eval.batch_size = 360
    return config
