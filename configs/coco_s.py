"""COCO detection and instance segmentation, Mask R-CNN on size S, by the recipe of the paper.

Command   python -m launch --config configs/coco_s.py --workdir runs/coco_s \
            --config.data.path=coco --config.start_from=runs/imagenet_s
Data      COCO 2017: annotations/instances_{train,val}2017.json, train2017/*.jpg, val2017/*.jpg; 118,287 and
          5,000 images
Expected  the paper's table; not run here, for want of the data and of a GPU
Cost      4 x A100, 25 hours, quoted from the paper; not run here

`start_from` takes the workdir of a classifier or the file of a published one (.pth): its backbone is taken
tensor by tensor, neck and heads start anew. Of a detector, also a published one, all is taken that fits.

The paper gives no length and no warm-up: 12 epochs and 1000 steps, as the code. Batch norm keeps the
statistics of the classifier and trains its affine (ours): those of so few images are poor. The factor of the
attention holds for the 196 tokens of a training image at 224; an image of 800x1344 has 4,200, and the factor
is scaled accordingly (ours). Neck and heads have float weights, as published; 4 bits everywhere:
--config.model.bits_rules="()", and --config.model.final_neuron=True for spikes before class and box.

`configs/coco_s.py:published` takes the code's values where the two differ: rate 2e-4, which falls to a tenth
after 8 and again after 11 of the 12 epochs, decay on all tensors, statistics of the 3 images of a device, one
factor of the attention for all sizes, neurons of neck and heads that see a quarter of their input, and a
geometry in which the two coarsest maps have half of the strides that anchors and pooling take them for. A
published detector is that network:
`python -m launch import-torch --config configs/coco_s.py:published`.
"""

from ml_collections import ConfigDict

from configs.dense import dense

CATEGORIES = 80


def coco(channels: tuple[int, int, int, int], depth: int = 8, variant: str = "") -> ConfigDict:
    """The recipe that the sizes share, on top of `dense`.

    Args:
      channels: C1..C4.
      depth: number of transformer blocks.
      variant: "" for the paper's values, "published" for those of the published code.

    Raises:
      ValueError: an unknown variant.
    """
    heads = "det_fpn|rpn|box_head|mask_head"
    config = dense(channels, depth, variant=variant, batch_size=12, heads=heads)
    config.task.name = "detection"
    config.epochs = 12
    config.model.fpn_channels = 256
    config.model.freeze_statistics = True
    config.model.remat = "blocks"
    config.data.source = "coco"
    config.data.fake_classes = CATEGORIES
    config.data.image_size = (800, 1344)
    config.data.portrait = True
    config.data.augmentation = "resize_or_crop_flip"
    config.data.short_side = 800
    config.data.long_side = 1333
    config.data.buckets = ((800, 1344), (1344, 800))
    config.optimizer.warmup_steps = 1000
    config.eval.batch_size = 4
    if variant == "published":
        config.model.freeze_statistics = False
        config.model.norm_group = 3
        config.model.geometry = "published"
        config.optimizer.learning_rate = 2e-4 * 256 / config.batch_size
        config.optimizer.schedule = "multistep"
        config.optimizer.drops = (8 / 12, 11 / 12)
    return config


def get_config(variant: str = "") -> ConfigDict:
    """Size S; see `coco` for the variants."""
    return coco((64, 128, 256, 360), variant=variant)
