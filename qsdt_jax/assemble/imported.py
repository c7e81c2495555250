"""What a configuration names by its place: "module:NAME", as Python's packages name commands and plug-ins.

Such a name is plain data. So it goes through the command line and config.json, and whoever opens the workdir
later finds the same thing again: a run that goes on, `eval`, the processes of `ablate`. A function argument,
or a decorator that registers, would reach one process alone. The module has to be importable, from the
current directory or installed; opening a workdir imports the modules that its config.json names.
"""

import importlib
import re
from collections.abc import Iterable
from typing import Any

from qsdt_jax.errors import UserError


def imported_object(key: str, name: str, known: Iterable[str]) -> Any:
    """What lies at "module:NAME".

    Args:
      key: of the configuration, for messages.
      name: its value.
      known: the names that are there without a module, for messages.

    Raises:
      UserError: it is no such name, the module cannot be imported, fails while it is, or has nothing of that
        name.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise UserError(f"config.{key}={name!r} is none of {', '.join(known)}, nor MODULE:NAME")
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UserError(f"config.{key}={name!r}: {error}") from None
    except Exception as error:  # Whatever the module does.
        reason = " ".join(str(error).split())
        raise UserError(f"config.{key}={name!r}: {type(error).__name__}: {reason}") from None
    if found is None:
        raise UserError(f"config.{key}={name!r}: there is no {attribute} in {module}")
    return found
