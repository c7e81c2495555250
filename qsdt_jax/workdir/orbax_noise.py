"""What orbax and tensorstore print besides the exceptions that they raise."""

import functools
import logging
import os
import sys

from qsdt_jax.retry import error_code


@functools.cache
def silence_orbax() -> None:
    """Once per process: leaves orbax's warnings, and of its errors only what it raises."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_worth_reading)
    others = sys.unraisablehook

    def hook(unraisable) -> None:
        # After an error orbax closes its event loop, and dozens of answers of tensorstore find it gone.
        if "Event loop is closed" not in str(unraisable.exc_value):
            others(unraisable)

    sys.unraisablehook = hook


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Drops orbax's chatter, and the tracebacks of errors that it raises as well."""
    if record.exc_info:
        error = record.exc_info[1]
        # Of several answers to one full disk, not every one names tensorstore.
        if "tensorstore" in str(error) or error_code(error) is not None:
            return False
    chatter = record.levelno <= logging.INFO or record.exc_info
    return not (chatter and f"{os.sep}orbax{os.sep}" in record.pathname)
