"""A network that compiles in seconds, to try what is measured with it: `--config benchmarks/tiny.py`."""

from ml_collections import ConfigDict

from qsdt_jax.configuration.defaults import base_config


def get_config() -> ConfigDict:
    """Two transformer blocks of 8 and 16 channels, on 4 drawn images of 32x32."""
    config = base_config()
    config.model.channels, config.model.depth, config.model.num_heads = (8, 8, 16, 16), 2, 2
    config.data.source, config.data.image_size, config.batch_size = "fake", (32, 32), 4
    return config
