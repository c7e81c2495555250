"""A folder of one's own: a few thousand images in folders of their classes.

Command   python -m launch --config configs/my_images.py --workdir runs/mine --config.data.path=PHOTOS
From one  python -m launch --config configs/my_images.py:s --workdir runs/mine --config.data.path=PHOTOS \
            --config.start_from=NETWORK, a workdir of size S or a published .pth; or :m, :l of their sizes
Data      PHOTOS/train/CLASS/IMAGE.jpg and PHOTOS/val/CLASS/IMAGE.jpg, of any sizes
Expected  93.1 % top-1 of scikit-learn's digits written as such folders (1,437 images to train, 360 to test),
          with --config.epochs=12 (seed 0, run here, 7 minutes on two busy CPU cores); not run at s, m, l
Cost      from scratch 64x64 images and 0.93 M weights, for a laptop; from a network 224x224, for a GPU

From scratch a small network of small images, since size S learns little from a few thousand. From a network
its own size, at the resolution that it knows, with a tenth of the learning rate.
"""

from ml_collections import ConfigDict

from configs.base import base_config

CHANNELS = {"s": (64, 128, 256, 360), "m": (96, 192, 384, 480), "l": (128, 256, 512, 640)}


def get_config(size: str = "") -> ConfigDict:
    """From scratch; with "s", "m" or "l" from a network of that size. ValueError for another size."""
    if size and size not in CHANNELS:
        raise ValueError(f"unknown size {size!r}; there is {', '.join(CHANNELS)}")
    config = base_config()
    config.data.source = "folder"
    config.data.augmentation = "crop_flip"
    config.loss.label_smoothing = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05
    config.eval.every_epochs = 5.0
    if size:
        config.epochs = 30
        config.batch_size = 64
        config.model.channels = CHANNELS[size]
        config.model.dtype = "bfloat16"
        config.data.image_size = (224, 224)
        config.data.randaugment_magnitude = 9.0
        config.optimizer.learning_rate = 1e-3
        config.optimizer.warmup_epochs = 1.0
        return config
    config.epochs = 60
    config.batch_size = 32
    config.model.channels = (24, 48, 72, 96)
    config.model.depth = 4
    config.model.layer_scale_init = 0.1
    config.data.image_size = (64, 64)
    config.data.crop_area = (0.5, 1.0)
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_epochs = 3.0
    return config
