"""What the recipes of segmentation and detection share; `ade20k_s.py` and `coco_s.py` have the rest."""

from ml_collections import ConfigDict

from configs.base import base_config


def dense(
    channels: tuple[int, int, int, int], depth: int, *, variant: str, batch_size: int, heads: str
) -> ConfigDict:
    """A backbone of a size with float neck and heads, and its optimiser.

    Args:
      channels: C1..C4.
      depth: number of transformer blocks.
      variant: "" for the paper's values, "published" for those of the published code.
      batch_size: images of a step.
      heads: regular expression of the names of neck and heads.

    Raises:
      ValueError: an unknown variant.
    """
    if variant not in ("", "published"):
        raise ValueError(f"unknown variant {variant!r}; the only one is 'published'")
    config = base_config()
    config.batch_size = batch_size
    config.model.channels = channels
    config.model.depth = depth
    config.model.bits_rules = ((f"({heads})/.*", 32),)
    config.model.attention_tokens = 196
    config.model.dtype = "bfloat16"
    config.data.workers = -1
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4 * 256 / batch_size  # The rate of a step is 1e-4.
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 0.0
    config.optimizer.schedule = "polynomial"
    config.optimizer.power = 0.9
    config.log.every_steps = 50
    config.checkpoint.every_steps = 2000
    if variant == "published":
        config.model.attention_tokens = 0
        config.model.neuron_input_gain = 0.25
        config.optimizer.decay_vectors = True
    return config
