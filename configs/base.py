"""The defaults of every key, which the configs change.

A config is plain data. `python -m launch --config configs/NAME.py --config.model.bits=2` overrides any key; a
misspelt one is refused. Each key stands with its default in qsdt_jax/configuration/defaults.py.
"""

from qsdt_jax.configuration.defaults import base_config

__all__ = ["base_config"]
