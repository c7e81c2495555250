"""The run that the studies on the embedded digits vary: small enough for many seeds, hard enough to separate.

A net of 8, 16, 24, 32 channels, 4 blocks and 4 heads; 400 training images of scikit-learn's digits with
normal noise of 0.1 (in black to white) on their 64 pixels, upscaled to 32x32, and 360 test images with such
noise; 400 steps of 20 images. No augmentation and no label smoothing. Scores are of the last step, not of the
best.
"""

from ml_collections import ConfigDict

from configs.digits import get_config as digits


def small_digits() -> ConfigDict:
    """4-bit weights, IE-LIF with D = 4, T = 1."""
    config = digits()
    config.epochs = 20
    config.batch_size = 20
    config.model.channels = (8, 16, 24, 32)
    config.model.num_heads = 4
    config.model.exact_evaluation = False
    config.data.augmentation = "none"
    config.data.digits_images = 400
    config.data.digits_noise = 0.1
    config.optimizer.learning_rate = 5e-2
    config.loss.label_smoothing = 0.0
    config.eval.every_epochs = 20.0
    config.checkpoint.keep_latest = 1
    return config
