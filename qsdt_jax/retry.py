"""Reading again where a read has failed: an I/O error says nothing about a file, and many errors pass.

A network file system that is slow (ETIMEDOUT), restarted (ESTALE) or gone for a moment (EIO), and a machine
short of memory or of descriptors, fail on files that are whole: no reader may take that for damage.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from absl import logging

from qsdt_jax.errors import UserError

T = TypeVar("T")

WAITS = (0.25, 1.0, 3.0)  # Seconds before each further try.
# Answers about the path, not failures to read: nothing lies there, or something that is no file.
FOUND_OTHERWISE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
# Libraries hide the number in their text: tensorstore, Python's own form, HDF5.
HIDDEN_CODE = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]|\berrno = (\d+)")
SHOWN_CHARACTERS = 160


def retried(read: Callable[[], T], what: object, *, passing: Callable[[Exception], bool] | None = None) -> T:
    """What `read` returns; an error that may pass is told in a log line and tried again after a short wait.

    Args:
      read: reads all of what it needs each time that it is called.
      what: the file or folder, for the messages.
      passing: decides which errors may pass; None for `may_pass`.

    Raises:
      UserError: the last try failed with an error that may pass, too; it says that nothing was changed.
      Exception: any other that `read` raises, at once.
    """
    passing = passing or may_pass
    for wait in (*WAITS, None):
        try:
            return read()
        except Exception as error:
            if not passing(error):
                raise
            if wait is None:
                raise UserError(
                    f"{what} cannot be read: {reason(error)}; tried {len(WAITS) + 1} times in "
                    f"{sum(WAITS):g} s. That is no proof of damage, so it was left alone; try again later"
                ) from error
            logging.warning("%s cannot be read: %s; trying again in %g s", what, reason(error), wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def content_of(file: str | Path, expected: str = "") -> bytes:
    """The bytes of a file, read again where an error may pass.

    Args:
      file: its path.
      expected: what it should be, for the message where nothing is there.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    try:
        return retried(Path(file).read_bytes, file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file" + (f"; expected {expected}" if expected else "")) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {reason(error)}") from None


def may_pass(error: BaseException) -> bool:
    """Whether an exception is a failure to read, and not a finding about what was read.

    That is any error number of the operating system but those that tell what lies at a path, also where a
    library hides it in its text or raises another exception from it; and too little time or memory. A
    UserError is a finding. So is an OSError without a number, by which image and archive readers tell of
    wrong formats.
    """
    if isinstance(error, UserError):
        return False
    return any(
        isinstance(link, MemoryError | TimeoutError | ConnectionError) or _codes(link) - FOUND_OTHERWISE
        for link in _chain(error)
    )


def error_code(error: BaseException | None) -> int | None:
    """The error number of the operating system behind an exception; one that may pass before others."""
    codes = [code for link in _chain(error) for code in sorted(_codes(link))]
    return next((code for code in codes if code not in FOUND_OTHERWISE), codes[0] if codes else None)


def reason(error: BaseException) -> str:
    """An exception in a few words without a line break."""
    code = error_code(error)
    if code is not None:
        return os.strerror(code)
    # Tensorstore appends its whole configuration, and says last what went wrong.
    text = " ".join(str(error).split(" [tensorstore_spec=")[0].split())
    if len(text) > SHOWN_CHARACTERS:
        text = "..." + text[-SHOWN_CHARACTERS:]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, those that it came from, and the members of groups; each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions


def _codes(error: BaseException) -> set[int]:
    if isinstance(error, OSError) and error.errno is not None:
        return {error.errno}
    return {int(next(filter(None, match.groups()))) for match in HIDDEN_CODE.finditer(str(error))}
