"""A run of seconds with all that a resumed run has to bring back: EMA, drop path, augmentation, mixing."""

from ml_collections import ConfigDict

from qsdt_jax.configuration.defaults import base_config


def get_config() -> ConfigDict:
    """20 steps of 5 an epoch; evaluated at 10 and 20, in 3 batches of which the last is padded."""
    config = base_config()
    config.epochs = 4
    config.batch_size = 8
    config.accumulate = 2
    config.model.channels = (8, 8, 16, 16)
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.mlp_ratio = 1
    config.model.layer_scale_init = 0.1
    config.model.drop_path = 0.2
    config.data.source = "fake"
    config.data.fake_images = 44
    config.data.fake_classes = 6
    config.data.image_size = (16, 16)
    config.data.augmentation = "crop_flip"
    config.data.randaugment_magnitude = 9.0
    config.data.erase_probability = 0.5
    config.data.mixup = 0.8
    config.data.cutmix = 1.0
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.learning_rate = 0.1
    config.loss.label_smoothing = 0.1
    config.ema_decay = 0.9
    config.eval.every_epochs = 2.0
    config.eval.batch_size = 16
    config.checkpoint.every_steps = 3
    return config
