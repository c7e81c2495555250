"""CIFAR-10, transferred from an ImageNet run, by the recipe of the paper.

Before    python -m launch prepare cifar10 --source cifar-10-python.tar.gz --out data/cifar10
Command   python -m launch --config configs/cifar10.py --workdir runs/cifar10 \
            --config.start_from=runs/imagenet_s --config.data.path=data/cifar10
Data      CIFAR-10 as `prepare` makes it, 32x32, scaled to 128x128 (bicubic)
Expected  98.4 % top-1, quoted from the paper; not run here, for want of the data
Cost      one V100 32 GB, 12 h, quoted from the paper; not run here

The paper leaves crop and evaluation view open: here the crop and flip of its ImageNet recipe, and the whole
image for evaluation. The head starts anew; every other tensor must fit, or the run names it and stops.
"""

from ml_collections import ConfigDict

from configs.base import base_config


def cifar() -> ConfigDict:
    """The recipe that CIFAR-10 and CIFAR-100 share, size S."""
    config = base_config()
    config.epochs = 100
    config.batch_size = 256
    config.model.dtype = "bfloat16"
    config.data.source = "tfds"
    config.data.image_size = (128, 128)
    config.data.augmentation = "crop_flip"
    config.data.randaugment_magnitude = 9.0
    config.data.randaugment_std = 0.5
    config.data.mixup = 0.8
    config.data.cutmix = 1.0
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 0.05
    return config


def get_config() -> ConfigDict:
    """CIFAR-10."""
    return cifar()
