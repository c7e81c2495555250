"""SpikingResformer on ImageNet-1K, by the values of its published code, T = 4.

Before    python -m launch prepare imagenet --source ILSVRC --out DATA
Command   python -m launch --config configs/imagenet_resformer.py --workdir runs/resformer_s \
            --config.data.path=DATA/imagenet/1.0.0
Data      as for configs/imagenet_s.py
Expected  74.3 % top-1 of size ti, 77.2 % of m, 78.8 % of l, quoted from the paper; not run here
Cost      not run here

Sizes are ti, s, m and l: `--config configs/imagenet_resformer.py:l`. Learning rates are those of a whole
batch on 8 GPUs: 1e-3, of m 8e-4, of l 5e-4. Statistics and firing rates are those of one GPU's images, of l
those of the whole batch; the published code's firing rates of l are those of one GPU as well. It sets the
learning rate once an epoch and warms up from 1e-5; here it is set at every step and rises from 0. Its half
precision is float16, here it is bfloat16.
"""

from ml_collections import ConfigDict

from configs.base import base_config

GPUS = 8
CHANNELS = {"ti": (64, 192, 384), "s": (64, 256, 512), "m": (64, 384, 768), "l": (128, 512, 1024)}
HEADS = {"ti": (1, 3, 6), "s": (1, 4, 8), "m": (1, 6, 12), "l": (2, 8, 16)}
IMAGES_OF_A_GPU = {"ti": 32, "s": 32, "m": 28, "l": 16}
PEAK = {"ti": 1e-3, "s": 1e-3, "m": 8e-4, "l": 5e-4}
# Mean strength of RandAugment, and its operations.
RANDAUGMENT = {"ti": (7.0, 2), "s": (7.0, 2), "m": (9.0, 2), "l": (9.0, 3)}


def resformer(size: str, batch_size: int, peak: float) -> ConfigDict:
    """What all published runs share: the network of a size, AdamW and the schedule.

    Args:
      size: ti, s, m or l.
      batch_size: images of a step.
      peak: highest learning rate, of such a batch.
    """
    config = base_config()
    config.batch_size = batch_size
    config.model.timesteps = 4
    config.model.dtype = "bfloat16"
    config.resformer.channels = CHANNELS[size]
    config.resformer.num_heads = HEADS[size]
    config.data.source = "tfds"
    config.data.augmentation = "crop_flip"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = peak * 256 / batch_size
    config.optimizer.final_learning_rate = 1e-5
    config.optimizer.warmup_epochs = 3.0
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 0.0
    config.loss.label_smoothing = 0.1
    return config


def get_config(size: str = "s") -> ConfigDict:
    """The run of a size; ValueError for another one."""
    if size not in CHANNELS:
        raise ValueError(f"unknown size {size!r}; there are {', '.join(CHANNELS)}")
    config = resformer(size, GPUS * IMAGES_OF_A_GPU[size], PEAK[size])
    config.epochs = 320
    config.model.norm_group = 0 if size == "l" else IMAGES_OF_A_GPU[size]
    config.data.workers = -1  # A process a core: many threads wait for Python's lock.
    config.data.image_size = (224, 224)
    config.data.randaugment_magnitude, config.data.randaugment_operations = RANDAUGMENT[size]
    config.data.randaugment_std = 0.5
    config.data.mixup = 0.2
    config.data.cutmix = 1.0
    config.data.eval_crop_ratio = 0.95  # The short side becomes 235.
    return config
