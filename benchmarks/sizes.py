"""What is measured on a GPU, and planned for it: `--config benchmarks/sizes.py:S-spikes-256`."""

import dataclasses

from ml_collections import ConfigDict

from qsdt_jax.configuration.defaults import base_config
from qsdt_jax.models import SIZES


@dataclasses.dataclass(frozen=True)
class Setting:
    """A published size on drawn images of 224x224.

    Attributes:
      size: of `SIZES`.
      batch: images of a step.
      remat: see `model.remat`.
      modes: those in which it is measured.
    """

    size: str
    batch: int = 64
    remat: str = "none"
    modes: tuple[str, ...] = ("train", "inference")


# In the order of what they say: the promises, then the sizes. Training first, which they are about.
SETTINGS = {
    "S-spikes-256": Setting("S", 256, "spikes", ("train",)),
    "S": Setting("S"),
    "M": Setting("M"),
    "L": Setting("L"),
    "S-spikes": Setting("S", remat="spikes", modes=("train",)),
}


def get_config(name: str) -> ConfigDict:
    """A setting of `SETTINGS` in bfloat16, with AdamW, which PyTorch has as well.

    Raises:
      ValueError: an unknown name.
    """
    if name not in SETTINGS:
        raise ValueError(f"unknown setting {name!r}; there are {', '.join(SETTINGS)}")
    setting, config = SETTINGS[name], base_config()
    config.data.source, config.data.image_size, config.batch_size = "fake", (224, 224), setting.batch
    config.model.update({**SIZES[setting.size], "dtype": "bfloat16", "remat": setting.remat})
    config.optimizer.name = "adamw"
    return config
