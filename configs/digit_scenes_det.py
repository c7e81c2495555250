"""Detection on a laptop: handwritten digits in scenes of them, with boxes and masks.

Before    python -m launch prepare digit-scenes --out data/digit_scenes
Command   python -m launch --config configs/digit_scenes_det.py --workdir runs/scenes_det
Variant   configs/digit_scenes_det.py:twin, the float twin (ReLU, softmax attention)
Data      3,000 scenes to train and 200 to test, 112 to 160 pixels a side, in COCO's own format; 10 categories
Expected  91.5 % box mAP50 and 89.8 % mask mAP50; 21 minutes on two busy cores, see docs/detection.md
"""

from ml_collections import ConfigDict

from configs.base import base_config
from configs.twin import FLOAT_TWIN

TWIN = {**FLOAT_TWIN, "model.neuron_input_gain": 1.0, "model.attention_tokens": 0}


def get_config(variant: str = "") -> ConfigDict:
    """4-bit weights everywhere, D = 4; "twin": the same layout in float; ValueError for another variant."""
    if variant not in ("", "twin"):
        raise ValueError(f"unknown variant {variant!r}; there is 'twin'")
    config = base_config()
    config.task.name = "detection"
    config.steps = 2400
    config.batch_size = 8
    config.model.neuron = "i_lif"  # It learns faster than the paper's IE-LIF, see docs/segmentation.md.
    config.model.channels = (16, 32, 48, 64)
    config.model.depth = 4
    config.model.layer_scale_init = 0.1
    config.model.fpn_channels = 32
    config.model.box_features = 128
    config.model.neuron_input_gain = 0.25  # A range of 0 to 16; with 0 to 4 those of the box head are full.
    config.model.final_neuron = True  # Every product of the heads is then one of spikes.
    config.model.anchor_scale = 4.0  # Anchors of 16, 32 and 64 pixels; digits are 19 to 51.
    config.model.attention_tokens = 24
    if variant == "twin":
        config.update_from_flattened_dict(TWIN)
    config.data.source = "coco"
    config.data.path = "data/digit_scenes"
    config.data.fake_classes = 10  # As many as these have.
    config.data.image_size = (64, 96)
    config.data.portrait = True
    config.data.short_side = 64  # Half of a scene's, and enough to read its digits.
    config.data.long_side = 96
    config.data.augmentation = "resize_or_crop"  # A mirrored digit is no digit.
    config.data.short_sides = (52, 56, 60, 64)
    config.data.crop_short_sides = (64,)
    config.data.crop_sides = (44, 64)
    config.data.objects = 16
    config.data.buckets = ((96, 96),)  # One program.
    config.detection.rpn_samples = 64
    config.detection.roi_samples = 64
    config.detection.train_proposals = (200, 100)
    config.detection.test_proposals = (200, 100)
    config.detection.detections = 50
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1.5e-3 * 256 / config.batch_size
    config.optimizer.rate_rules = (("box_head/fc.*", 0.1),)  # A step moves the sum of 1,568 inputs at once.
    config.optimizer.schedule = "polynomial"
    config.optimizer.warmup_steps = 60
    config.eval.every_epochs = 5.0
    config.eval.batch_size = 20
    return config
