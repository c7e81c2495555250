"""Every value of a configuration against what its key allows.

It is checked wherever a configuration comes in: from the command line, a workdir, a row of a study, or a
caller of `build_run`.
"""

import functools
import operator
from typing import Any

from ml_collections import ConfigDict

from qsdt_jax.configuration.defaults import KEYS
from qsdt_jax.errors import UserError


def check_config(config: ConfigDict) -> None:
    """Refuses a value that its key does not allow, before anything is made of it.

    Raises:
      UserError: names the first of them.
    """
    for name, key in KEYS.items():
        value: Any = functools.reduce(operator.getitem, name.split("."), config)
        if fault := key.fault(value):
            separator = "" if fault.startswith(":") else " "
            raise UserError(f"config.{name}={_short(value)}{separator}{fault}")


def _short(value: Any) -> str:
    """A value in a message: a text in quotes."""
    if isinstance(value, int) and abs(value) >= 10**30:  # Python itself refuses to write very long ones.
        return "a number of more than 30 digits"
    if isinstance(value, tuple | list) and any(isinstance(n, int) and abs(n) >= 10**30 for n in value):
        return "numbers of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
