"""Semantic segmentation on a laptop: which pixels belong to which handwritten digit, in scenes of them.

Before    python -m launch prepare digit-scenes --out data/digit_scenes
Command   python -m launch --config configs/digit_scenes_seg.py --workdir runs/scenes
Variant   configs/digit_scenes_seg.py:twin, the float twin (ReLU, softmax attention)
Data      3,000 scenes to train and 200 to test, 112 to 160 pixels a side, in ADE20K's own layout; 11 classes
Expected  79.4 % mIoU (seed 0, run here); 12 minutes of CPU time on two cores, see docs/segmentation.md
"""

from ml_collections import ConfigDict

from configs.base import base_config
from configs.twin import FLOAT_TWIN

TWIN = {**FLOAT_TWIN, "model.attention_tokens": 0}


def get_config(variant: str = "") -> ConfigDict:
    """4-bit weights everywhere, D = 4; "twin": the same layout in float; ValueError for another variant."""
    if variant not in ("", "twin"):
        raise ValueError(f"unknown variant {variant!r}; there is 'twin'")
    config = base_config()
    config.task.name = "semantic_segmentation"
    config.steps = 2400
    config.batch_size = 16
    config.model.neuron = "i_lif"  # It learns faster than the paper's IE-LIF, see docs/segmentation.md.
    config.model.channels = (16, 32, 48, 64)
    config.model.depth = 4
    config.model.layer_scale_init = 0.1
    config.model.fpn_channels = 32
    config.model.attention_tokens = 16
    if variant == "twin":
        config.update_from_flattened_dict(TWIN)
    config.data.source = "ade20k"
    config.data.path = "data/digit_scenes"
    config.data.fake_classes = 11  # As many as these have.
    config.data.image_size = (64, 64)
    config.data.short_side = 64  # Half of a scene's, and enough to read its digits.
    config.data.long_side = 96
    config.data.augmentation = "resize_crop"  # A mirrored digit is no digit.
    config.data.resize_ratio = (0.8, 1.25)
    config.data.largest_share = 1.0
    config.data.buckets = ((96, 96),)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3 * 256 / config.batch_size
    config.optimizer.schedule = "polynomial"
    config.optimizer.warmup_steps = 60
    config.loss.average = "labelled"
    config.loss.class_weights = (0.5,) + 10 * (1.0,)  # Most pixels are background.
    config.eval.every_epochs = 4.0
    config.eval.batch_size = 20
    return config
