"""Files that neither a crash nor a second process at the same place can spoil."""

import contextlib
import fcntl
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qsdt_jax.errors import UserError
from qsdt_jax.retry import retried


def expanded(path: str) -> str:
    """A path as it is meant: ~ and ~NAME at its start are homes, and all else stays, for $ may be in a name.

    Shells expand ~ at the start of a word only, and so not in --workdir=~/run.

    Raises:
      UserError: there is no such home, or a null character, which no path has.
    """
    if "\0" in path:
        raise UserError(f"{path!r} is no path: it has a null character")
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        home = path.split("/", 1)[0]
        raise UserError(
            f"{path}: no home directory {home} is known; for a folder of that name: ./{path}"
        ) from None


def read_json(file: Path) -> Any:
    """The content of a JSON file that others may have written.

    Raises:
      FileNotFoundError: there is none.
      UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(retried(lambda: file.read_text(encoding="utf-8"), file))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON, or damaged: {error}") from None


def place(path: str | Path) -> str:
    """What files have in common that overwrite each other, also where capitals do not count."""
    return str(Path(path).resolve()).casefold()


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
