"""One preparation at a time in a directory, which goes on only with what it began itself."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qsdt_jax.data.prepare.metadata import UNFINISHED
from qsdt_jax.errors import UserError
from qsdt_jax.files import locked, read_json, write_atomically

PLAN_FILE, LOCK_FILE = "plan.json", "lock"
REPORT_FILE = "preparation.json"


@contextlib.contextmanager
def claimed(directory: Path, fingerprint: str, others: str) -> Iterator[None]:
    """Holds a directory, which is new, or begun by a preparation of the same fingerprint.

    The folder `UNFINISHED` in it, which is made here, says that it is not finished; who finishes removes it.

    Args:
      directory: to write in.
      fingerprint: of all that will be in it.
      others: what a preparation of another fingerprint is of, for a message.

    Raises:
      UserError: it holds something else, or another process is at it.
    """
    unfinished = directory / UNFINISHED
    foreign = [] if unfinished.is_dir() or not directory.is_dir() else sorted(os.listdir(directory))
    if foreign:
        raise UserError(f"{directory} holds {', '.join(foreign[:5])}; expected an empty or a new directory")
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{directory} cannot be made: a file is in the way; expected directories") from None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(unfinished / LOCK_FILE))
        except BlockingIOError:
            raise UserError(f"{directory} is being written by another process") from None
        file = unfinished / PLAN_FILE
        if not file.exists():
            write_atomically(file, json.dumps({"fingerprint": fingerprint}) + "\n")
        elif fields_of(file).get("fingerprint") != fingerprint:
            raise UserError(
                f"{directory} holds an unfinished preparation of {others}; "
                "give the source and flags of that one, or remove the directory"
            )
        yield


def fields_of(file: Path) -> dict[str, Any]:
    """Of a JSON file; none of what is no such file any more, and so of no preparation of ours."""
    content = read_json(file)
    return content if isinstance(content, dict) else {}
