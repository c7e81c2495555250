"""One array_record file, and examples made by threads while it is written."""

import collections
import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from qsdt_jax.cpus import usable_cpus
from qsdt_jax.errors import UserError
from qsdt_jax.retry import reason, retried

THREADS = min(16, usable_cpus())
AHEAD = 4 * THREADS  # Records in memory.
FAILED_CALL = re.compile(r"\b\w+\(\) failed: ([^;]+)")
CODES = {os.strerror(code): code for code in errno.errorcode}

T = TypeVar("T")
R = TypeVar("R")


class ArrayRecordFile:
    """A new array_record file; a context manager. Every failure to write is a UserError that says why."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "ArrayRecordFile":
        from array_record.python.array_record_module import ArrayRecordWriter

        with self._telling_failures():
            self._writer = ArrayRecordWriter(str(self.path), "group_size:1")
        return self

    def write(self, record: bytes) -> None:
        """Appends a record."""
        with self._telling_failures():
            self._writer.write(record)

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        if kind is None:
            with self._telling_failures():
                self._writer.close()

    @contextlib.contextmanager
    def _telling_failures(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # "write() failed: No space left on device; writing PATH; ..."
            reason = str(error).split(";")[0].removeprefix("write() failed: ").removeprefix("open() failed: ")
            raise UserError(f"{self.path} cannot be written: {reason}") from None


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results in the order of the items, computed by threads that run ahead a little."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def records_in(path: Path) -> int | None:
    """Number of records of an array_record file; None where it is missing, or no whole one.

    Raises:
      UserError: the file cannot be read, which tells nothing of what is in it.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    def read() -> int | None:
        reader = ArrayRecordReader(str(path))
        number = reader.num_records() if reader.ok() else None
        with telling_calls():
            reader.close()
        return number

    try:
        return retried(read, path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from None
    except RuntimeError:  # Closing one that is damaged.
        return None


@contextlib.contextmanager
def telling_calls() -> Iterator[None]:
    """Turns what array_record makes of a failed call of the system into the OSError that it was.

    It raises a RuntimeError, "pread() failed: Input/output error; reading PATH; ...", as it does for damage.
    """
    try:
        yield
    except Exception as error:
        failed = FAILED_CALL.search(str(error))
        if failed is None:
            raise
        raise OSError(CODES.get(failed[1], errno.EIO), failed[1]) from error
