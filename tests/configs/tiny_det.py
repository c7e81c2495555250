"""The same as tiny.py for detection: batches of two orientations, evaluated in buckets."""

from ml_collections import ConfigDict

from qsdt_jax.configuration.defaults import base_config


def get_config() -> ConfigDict:
    """12 steps; evaluated at 6 and 12, on the test split of scenes of digits or on fake images."""
    config = base_config()
    config.task.name = "detection"
    config.steps = 12
    config.batch_size = 4
    config.accumulate = 2
    config.model.channels = (8, 8, 16, 16)
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.mlp_ratio = 1
    config.model.layer_scale_init = 0.1
    config.model.drop_path = 0.2
    config.model.fpn_channels = 8
    config.model.box_features = 16
    config.model.final_neuron = True
    config.model.anchor_scale = 2.0
    config.model.attention_tokens = 6
    config.data.source = "fake"
    config.data.fake_images = 17
    config.data.fake_classes = 3
    config.data.image_size = (32, 48)
    config.data.portrait = True
    config.data.short_side = 32
    config.data.long_side = 48
    config.data.buckets = ((32, 48), (48, 32))
    config.data.augmentation = "resize_or_crop_flip"
    config.data.short_sides = (24, 32)
    config.data.crop_short_sides = (32,)
    config.data.crop_sides = (24, 32)
    config.data.objects = 6
    config.detection.rpn_samples = 16
    config.detection.roi_samples = 16
    config.detection.train_proposals = (24, 16)
    config.detection.test_proposals = (24, 16)
    config.detection.score_threshold = 0.0
    config.detection.detections = 8
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.3
    config.optimizer.schedule = "polynomial"
    config.optimizer.warmup_steps = 2
    config.ema_decay = 0.9
    config.eval.every_epochs = 1.5
    config.eval.batch_size = 3
    config.checkpoint.every_steps = 3
    return config
