"""Files that neither a crash nor a second process at the same place can spoil."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from qsdt_jax.errors import UserError


def write_atomically(file: Path, text: str) -> None:
    """Writes a text file so that after a crash either the old or the new content is there.

    Raises:
      UserError: it cannot be written.
    """
    temporary = file.with_name(file.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Holds the lock of a file, which is made where there is none; a process that dies gives it back.

    Raises:
      BlockingIOError: another process holds it.
      OSError: the file cannot be opened.
    """
    with open(file, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
