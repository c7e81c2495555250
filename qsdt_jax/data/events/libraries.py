"""Libraries that read some files of events, none of them needed for the others."""

import importlib
import importlib.util
from typing import Any

from qsdt_jax.errors import UserError


def require(module: str, package: str, name: str) -> Any:
    """A module of the package that reads the file `name`; raises UserError where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _missing(package, name) from None


def require_installed(package: str, name: str) -> None:
    """Raises UserError where the package that reads the file `name` is missing; imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise _missing(package, name)


def _missing(package: str, name: str) -> UserError:
    return UserError(
        f"{name} is read by the library {package}, which is not installed: pip install {package}"
    )
