"""ADE20K semantic segmentation, Semantic FPN on size S, by the recipe of the paper.

Command   python -m launch --config configs/ade20k_s.py --workdir runs/ade20k_s \
            --config.data.path=ADEChallengeData2016 --config.start_from=runs/imagenet_s
Data      ADEChallengeData2016: images/{training,validation}/*.jpg, annotations/{training,validation}/*.png,
          objectInfo150.txt; 20,210 and 2,000 images. `python -m launch prepare ade20k` packs it into few
          files, which --config.data.source=tfds reads
Expected  the paper's table; not run here, for want of the data and of a GPU
Cost      4 x A100, quoted from the paper; not run here. Compiled for four H100s a step takes 5.3 GB of each

`start_from` takes the workdir of a classifier or the file of a published one (.pth): its backbone is taken
tensor by tensor, neck and head start anew.

The factor of the attention holds for the 196 tokens of a training image at 224; an image of 512 has 1,024
tokens, and the factor is scaled accordingly (ours). Neck and head have float weights, as published; 4 bits
everywhere: --config.model.bits_rules="()".

`configs/ade20k_s.py:published` takes the code's values where the two differ: rate 1e-3, twice that in the
head, falling in a straight line, decay 0.005 on all tensors, one factor of the attention for all sizes, and
neurons of neck and head that see a quarter of their input. A published segmentor is that network:
`python -m launch import-torch --config configs/ade20k_s.py:published`.
"""

from ml_collections import ConfigDict

from configs.base import base_config

IMAGES = 20_210


def ade20k(channels: tuple[int, int, int, int], depth: int = 8, variant: str = "") -> ConfigDict:
    """The recipe that the sizes share.

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
    config.task.name = "semantic_segmentation"
    config.steps = 160_000
    config.batch_size = 20
    config.model.channels = channels
    config.model.depth = depth
    config.model.bits_rules = (("(fpn|seg_head)/.*", 32),)
    config.model.attention_tokens = 196
    config.model.dtype = "bfloat16"
    config.data.source = "ade20k"
    config.data.image_size = (512, 512)
    config.data.augmentation = "resize_crop_flip"
    config.data.photometric = True
    config.data.short_side = 512
    config.data.long_side = 2048
    config.data.buckets = (
        *((512, width) for width in (512, 704, 1024, 2048)),
        *((height, 512) for height in (704, 1024, 2048)),
    )
    config.data.workers = -1
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4 * 256 / config.batch_size  # The rate of a step is 1e-4.
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 0.0
    config.optimizer.schedule = "polynomial"
    config.optimizer.power = 0.9
    config.optimizer.warmup_steps = 1500
    config.eval.every_epochs = 16_000 / (IMAGES // config.batch_size)
    config.eval.batch_size = 8
    config.log.every_steps = 50
    config.checkpoint.every_steps = 2000
    if variant == "published":
        config.model.attention_tokens = 0
        config.model.neuron_input_gain = 0.25
        config.optimizer.learning_rate = 1e-3 * 256 / config.batch_size
        config.optimizer.weight_decay = 0.005
        config.optimizer.decay_vectors = True
        config.optimizer.rate_rules = (("seg_head/.*", 2.0),)
        config.optimizer.power = 1.0
    return config


def get_config(variant: str = "") -> ConfigDict:
    """Size S; see `ade20k` for the variants."""
    return ade20k((64, 128, 256, 360), variant=variant)
