"""SpikingResformer on CIFAR-10 or CIFAR-100, direct or from an ImageNet run, by its published code, T = 4.

Before    python -m launch prepare cifar10 --source cifar-10-python.tar.gz --out data/cifar10
Command   python -m launch --config configs/cifar_resformer.py --workdir runs/resformer_cifar10 \
            --config.data.path=data/cifar10
          python -m launch --config configs/cifar_resformer.py:transfer --workdir runs/resformer_transfer \
            --config.start_from=runs/resformer_s --config.data.path=data/cifar10
Data      CIFAR-10 as `prepare` makes it, 32x32; a transfer takes it scaled to 128x128 (bicubic). CIFAR-100 by
          another --config.data.path, its transfer with --config.epochs=150 besides
Expected  97.4 % of CIFAR-10, 86.0 % of CIFAR-100 after a transfer of size s, quoted; not run here
Cost      not run here

Direct runs have the widths of size ti and the stem for small images, transfers size s. The batch of 128 is
that of one GPU; how many the published runs had is not known. Cut and flip are those of the ImageNet runs.
"""

from ml_collections import ConfigDict

from configs.imagenet_resformer import resformer


def get_config(variant: str = "direct") -> ConfigDict:
    """A run from its own start, or with "transfer" one from an ImageNet run; ValueError for another."""
    if variant not in ("direct", "transfer"):
        raise ValueError(f"unknown variant {variant!r}; there are direct, transfer")
    transfer = variant == "transfer"
    config = resformer("s" if transfer else "ti", 128, peak=1e-4 if transfer else 5e-4)
    config.epochs = 100 if transfer else 600
    config.resformer.small_images = not transfer
    config.data.image_size = (128, 128) if transfer else (32, 32)
    config.data.randaugment_magnitude = 9.0 if transfer else 7.0
    config.data.randaugment_std = 0.4 if transfer else 0.5
    config.data.randaugment_operations = 1
    config.data.mixup = 0.5
    return config
