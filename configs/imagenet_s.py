"""ImageNet-1K from scratch, size S, by the recipe of the paper.

Before    python -m launch prepare imagenet --source ILSVRC --out DATA
Command   python -m launch --config configs/imagenet_s.py --workdir runs/imagenet_s \
            --config.data.path=DATA/imagenet/1.0.0
Data      ILSVRC: the tars of ILSVRC 2012 with the development kit, or their folders; DATA needs 150 GB more.
          `--config.data.source=folder` reads train/CLASS/... and val/CLASS/... unprepared.
          A process a core reads (`--config.data.workers=N` for another number): 300 epochs in 24 h take 4,450
          images/s, at 190 of a core (docs/benchmarks.md) 24 cores
Expected  77.5 % top-1, quoted second-hand; not run here
Cost      8 x A100 40 GB, 24 h, quoted from the paper; not run here

Values are the paper's where it gives them; the crop, the flip and the evaluation at 256/224 are the published
code's. `configs/imagenet_s.py:published` takes the code's values where the two differ, too: random erasing
0.25, a warm-up of 15 epochs, and a moving average of 0.99996, which is evaluated beside the variables.

An update of 1568 images needs the memory of several devices; `--config.accumulate=8` cuts it into eight parts
of 196, each with batch-norm statistics of its own, as each GPU of the paper had.
"""

from ml_collections import ConfigDict

from configs.base import base_config


def imagenet(channels: tuple[int, int, int, int], depth: int = 8, variant: str = "") -> ConfigDict:
    """The recipe that sizes S, M and L share.

    Args:
      channels: C1..C4.
      depth: number of transformer blocks.
      variant: "" for the paper's values, "published" for those of the published code.

    Raises:
      ValueError: an unknown variant.
    """
    if variant not in ("", "published"):
        raise ValueError(f"unknown variant {variant!r}; the only one is 'published'")
    config = base_config()
    config.epochs = 300
    config.batch_size = 1568  # 8 x 196
    config.model.channels = channels
    config.model.depth = depth
    config.model.layer_scale_init = 1e-6
    config.model.norm_group = 196  # The paper's batch-norm statistics are those of one GPU.
    config.model.dtype = "bfloat16"
    config.data.source = "tfds"
    config.data.workers = -1  # A process a core: many threads wait for Python's lock.
    config.data.image_size = (224, 224)
    config.data.channels = 3
    config.data.augmentation = "crop_flip"
    config.data.randaugment_magnitude = 9.0
    config.data.randaugment_std = 0.5
    config.data.eval_crop_ratio = 0.875  # The short side becomes 256.
    config.optimizer.name = "lamb"
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.weight_decay = 0.05
    config.loss.label_smoothing = 0.1
    if variant == "published":
        config.data.erase_probability = 0.25
        config.optimizer.warmup_epochs = 15.0
        config.ema_decay = 0.99996
    return config


def get_config(variant: str = "") -> ConfigDict:
    """Size S; see `imagenet` for the variants."""
    return imagenet((64, 128, 256, 360), variant=variant)
