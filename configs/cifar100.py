"""CIFAR-100, transferred from an ImageNet run, by the recipe of the paper.

Before    python -m launch prepare cifar100 --source cifar-100-python.tar.gz --out data/cifar100
Command   python -m launch --config configs/cifar100.py --workdir runs/cifar100 \
            --config.start_from=runs/imagenet_s --config.data.path=data/cifar100
Data      CIFAR-100 as `prepare` makes it, 32x32, scaled to 128x128 (bicubic)
Expected  87.6 % top-1, quoted from the paper; not run here, for want of the data
Cost      one V100 32 GB, 12 h, quoted from the paper; not run here

See configs/cifar10.py.
"""

from ml_collections import ConfigDict

from configs.cifar10 import cifar


def get_config() -> ConfigDict:
    """CIFAR-100."""
    return cifar()
