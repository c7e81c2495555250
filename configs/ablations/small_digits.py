"""The run that the studies on the embedded digits vary: small enough for many seeds, hard enough to separate.

A net of 8, 16, 24, 32 channels, 4 blocks and 4 heads; scikit-learn's 1,437 training and 360 test digits, with
normal noise of 0.1 (white = 1) on their 8x8 pixels, upscaled to 32x32; 8 epochs, which are 352 steps of 32
images: short on purpose, so that nets that learn slower score less. No augmentation and no label smoothing.
Scores are of the last step, not of the best.
"""

from ml_collections import ConfigDict

from configs.digits import get_config as digits


def small_digits() -> ConfigDict:
    """4-bit weights, IE-LIF with D = 4, T = 1."""
    config = digits()
    config.epochs = 8
    config.batch_size = 32
    config.model.channels = (8, 16, 24, 32)
    config.model.num_heads = 4
    config.model.exact_evaluation = False
    config.data.augmentation = "none"
    config.data.digits_noise = 0.1
    config.optimizer.learning_rate = 6e-2
    config.optimizer.warmup_epochs = 1.0
    config.loss.label_smoothing = 0.0
    config.eval.every_epochs = 8.0
    config.checkpoint.keep_latest = 1
    return config
