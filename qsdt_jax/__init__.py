"""Quantized spike-driven transformers in JAX.

`load` opens a network that a run, an export or somebody else has left, `save` writes one for others, and
`models` makes new ones.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
# What `import qsdt_jax` gives when it is first asked for, so that the import itself takes no time.
_LATER = {
    "load": ("qsdt_jax.loading.opening", "load"),
    "save": ("qsdt_jax.loading.saving", "save"),
    "models": ("qsdt_jax.models", None),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LATER[name]
    value = importlib.import_module(module)
    return value if attribute is None else getattr(value, attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
