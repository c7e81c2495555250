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

from configs.dense import dense

IMAGES = 20_210


def ade20k(channels: tuple[int, int, int, int], depth: int = 8, variant: str = "") -> ConfigDict:
    """The recipe that the sizes share, on top of `dense`.

    Args:
      channels: C1..C4.
      depth: number of transformer blocks.
      variant: "" for the paper's values, "published" for those of the published code.

    Raises:
      ValueError: an unknown variant.
    """
    config = dense(channels, depth, variant=variant, batch_size=20, heads="fpn|seg_head")
    config.task.name = "semantic_segmentation"
    config.steps = 160_000
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
    config.optimizer.warmup_steps = 1500
    config.eval.every_epochs = 16_000 / (IMAGES // config.batch_size)
    config.eval.batch_size = 8
    if variant == "published":
        config.optimizer.learning_rate = 1e-3 * 256 / config.batch_size
        config.optimizer.weight_decay = 0.005
        config.optimizer.rate_rules = (("seg_head/.*", 2.0),)
        config.optimizer.power = 1.0
    return config


def get_config(variant: str = "") -> ConfigDict:
    """Size S; see `ade20k` for the variants."""
    return ade20k((64, 128, 256, 360), variant=variant)
