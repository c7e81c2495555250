"""Events of handwritten digits before a moving camera: real time steps, a real membrane.

Command   python -m launch --config configs/digits_dvs.py --workdir runs/digits_dvs
Data      simulated from scikit-learn's digits (1,437 streams to train, 360 to test), 32x32, T = 2 frames
Expected  97.2 and 96.1 % test top-1 (seeds 0 and 1); :motion 100 %, :motion_sum 48 % (one run each); all
          run here before commit 7116aca, which changed the head's initial values, and not again since
Cost      178 s on two idle cores, compilation included (270 s of CPU time)

Variants, by `--config configs/digits_dvs.py:NAME`
  motion        the label is the direction in which the picture sets out, before it comes back the same way:
                only the order of time tells it
  motion_sum    the same streams, their sum in every frame: what is left without the order of time
"""

from ml_collections import ConfigDict

from configs.base import base_config


def get_config(variant: str = "") -> ConfigDict:
    """Digits, or the direction of motion; raises ValueError for an unknown variant."""
    if variant not in ("", "motion", "motion_sum"):
        raise ValueError(f"unknown variant {variant!r}; there are 'motion' and 'motion_sum'")
    config = base_config()
    config.epochs = 16
    config.batch_size = 32
    config.model.channels = (16, 32, 48, 64)
    config.model.depth = 4
    config.model.timesteps = 2
    config.model.layer_scale_init = 0.1
    config.data.source = "motion_dvs" if variant else "digits_dvs"
    config.data.events = True
    config.data.channels = 2
    config.data.slicing = "sum" if variant == "motion_sum" else "time"
    config.data.augmentation = "roll"
    config.data.roll = 1
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-2
    config.optimizer.warmup_epochs = 1.0
    config.loss.label_smoothing = 0.1
    config.eval.every_epochs = 8.0
    config.eval.batch_size = 120
    return config
