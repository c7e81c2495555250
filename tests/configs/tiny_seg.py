"""The same as tiny.py for segmentation: images of several sizes, evaluated in buckets."""

from ml_collections import ConfigDict

from qsdt_jax.configuration.defaults import base_config


def get_config() -> ConfigDict:
    """12 steps of 4 an epoch; evaluated at 8 and 12."""
    config = base_config()
    config.task.name = "semantic_segmentation"
    config.epochs = 3
    config.batch_size = 4
    config.accumulate = 2
    config.model.channels = (8, 8, 16, 16)
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.mlp_ratio = 1
    config.model.layer_scale_init = 0.1
    config.model.drop_path = 0.2
    config.model.fpn_channels = 8
    config.model.attention_tokens = 4
    config.data.source = "fake"
    config.data.fake_images = 17
    config.data.fake_classes = 3
    config.data.image_size = (32, 32)
    config.data.augmentation = "resize_crop_flip"
    config.data.photometric = True
    config.data.buckets = ((32, 48), (48, 32), (48, 48))
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.3
    config.optimizer.schedule = "polynomial"
    config.optimizer.warmup_steps = 2
    config.ema_decay = 0.9
    config.eval.every_epochs = 2.0
    config.eval.batch_size = 3
    config.checkpoint.every_steps = 3
    return config
