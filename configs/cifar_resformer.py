"""SpikingResformer on CIFAR-10 or CIFAR-100, direct or from an ImageNet run, by its published code, T = 4.

Before    python -m launch prepare cifar10 --source cifar-10-python.tar.gz --out data/cifar10
Command   python -m launch --config configs/cifar_resformer.py --workdir runs/resformer_cifar10 \
            --config.data.path=data/cifar10
          python -m launch --config configs/cifar_resformer.py:cifar10_transfer --workdir runs/transfer \
            --config.start_from=runs/resformer_s --config.data.path=data/cifar10
Data      CIFAR-10 as `prepare` makes it, 32x32; a transfer takes it scaled to 128x128 (bicubic). CIFAR-100
          (prepare cifar100) by the variants cifar100 and cifar100_transfer
Expected  97.4 % of CIFAR-10, 86.0 % of CIFAR-100 after a transfer of size s, quoted; not run here
Cost      not run here

Direct runs have the widths of size ti and the stem for small images, transfers size s. Images are whole,
mirrored or not, in the normalisation of their data set. The batch of 128 is that of one GPU.
"""

from ml_collections import ConfigDict

from configs.imagenet_resformer import resformer

# Mean and standard deviation of pixels in 0..1.
NORMALIZATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": tuple(tuple(x / 255 for x in v) for v in ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4))),
}
VARIANTS = (*NORMALIZATION, *(f"{name}_transfer" for name in NORMALIZATION))


def get_config(variant: str = "cifar10") -> ConfigDict:
    """A run from its own start, or with "_transfer" one from an ImageNet run; ValueError for another."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    name, _, transfer = variant.partition("_")
    config = resformer("s" if transfer else "ti", 128, peak=1e-4 if transfer else 5e-4)
    config.epochs = 600 if not transfer else 100 if name == "cifar10" else 150
    config.data.mean, config.data.std = NORMALIZATION[name]
    config.data.crop_area = config.data.crop_aspect = (1.0, 1.0)
    config.resformer.small_images = not transfer
    config.data.image_size = (128, 128) if transfer else (32, 32)
    config.data.randaugment_magnitude = 9.0 if transfer else 7.0
    config.data.randaugment_std = 0.4 if transfer else 0.5
    config.data.randaugment_operations = 1
    config.data.mixup = 0.5
    return config
