"""Files that neither a crash nor a second process at the same place can spoil."""

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from qsdt_jax.errors import UserError


def write_atomically(file: Path, content: str | bytes) -> None:
    """Writes a file, text in UTF-8, so that after a crash either the old or the new content is there.

    Raises:
      UserError: it cannot be written; no part of it is left then.
    """
    temporary = file.with_name(file.name + ".tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        put_in_place(temporary, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


def put_in_place(temporary: Path, file: Path) -> None:
    """Gives a file its name once its content is on the disk; raises OSError where that fails."""
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def free_path(path: Path) -> Path:
    """The first of PATH, PATH.2, PATH.3, ... that nothing lies at, not even a link to nowhere."""
    paths = itertools.chain([path], (path.with_name(f"{path.name}.{i}") for i in itertools.count(2)))
    return next(path for path in paths if not os.path.lexists(path))


@contextlib.contextmanager
def locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a file, which is made where there is none; a process that dies gives it back.

    Raises:
      BlockingIOError: another process holds it, and this one shall not wait.
      OSError: the file cannot be opened.
    """
    with open(file, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
