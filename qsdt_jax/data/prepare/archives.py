"""Tars: of those that are not compressed, where each member's bytes lie; of the small rest, the bytes.

Members are named without the "./" that `tar -C FOLDER .` writes before them. Of those with one name the last
counts, as for tar. Hidden ones (._x.JPEG of a Mac) are left out and named.
"""

import gzip
import io
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from qsdt_jax.data.class_folders import is_hidden
from qsdt_jax.data.prepare.records import FilePart
from qsdt_jax.errors import UserError
from qsdt_jax.retry import reason, retried

T = TypeVar("T")


class _OddMember(Exception):
    """A link, or a file whose name leads out of its archive."""


def members(tar: Path) -> tuple[list[tuple[str, FilePart]], list[str]]:
    """The files of a tar by name, in the order of the archive, and the names of hidden ones.

    Raises:
      UserError: it cannot be read, is no tar, is compressed, or is cut off; a name leads out of it, or a
        member is a link.
    """

    def read() -> tuple[list[tuple[str, FilePart]], list[str]]:
        found, hidden = {}, []
        with open(tar, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for name, m in _files_of(archive):
                if _is_hidden(name):
                    hidden.append(name)
                else:
                    found[name] = FilePart(str(tar), m.size, m.offset_data)
        return list(found.items()), hidden

    return _read(tar, "uncompressed tar", read)


def nested_members(tar: Path) -> tuple[list[tuple[str, str, FilePart]], list[str]]:
    """The files within the tars of a tar, and the names of hidden ones.

    Returns:
      Name of the inner tar, of its member, and the member's bytes.

    Raises:
      UserError: as `members`.
    """

    def read() -> tuple[list[tuple[str, str, FilePart]], list[str]]:
        found, hidden = {}, []
        with open(tar, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as outer:
            for inner_name, inner in _files_of(outer):
                if _is_hidden(inner_name):
                    hidden.append(inner_name)
                    continue
                part = outer.extractfile(inner)
                assert part is not None  # It is a file.
                try:
                    with tarfile.open(fileobj=part, mode="r:") as tar_of_class:
                        for name, m in _files_of(tar_of_class):
                            if _is_hidden(name):
                                hidden.append(f"{inner_name}/{name}")
                            else:
                                content = FilePart(str(tar), m.size, inner.offset_data + m.offset_data)
                                found[inner_name, name] = content
                except tarfile.TarError as error:
                    raise tarfile.ReadError(f"{inner_name}: {error}") from None
        return [(*names, content) for names, content in found.items()], hidden

    return _read(tar, "tar of tars", read)


def gzip_members(archive: Path) -> dict[str, bytes]:
    """The content of the files of a small tar.gz by name.

    Raises:
      UserError: it cannot be read, is no tar.gz, or damaged or cut off; its checksum tells. A name leads out
        of it.
    """

    def read() -> dict[str, bytes]:
        with gzip.open(archive) as stream:
            content = io.BytesIO(stream.read())  # To the end, where the checksum is; tarfile stops before.
        with tarfile.open(fileobj=content, mode="r:") as tar:
            files = {_inner_name(m): tar.extractfile(m) for m in tar if m.isfile()}
            return {name: file.read() for name, file in files.items() if file is not None}

    return _read(archive, "tar.gz", read)


def _read(tar: Path, kind: str, read: Callable[[], T]) -> T:
    """What `read` gives; an archive is called damaged for what was read of it, not for a disk that fails."""
    try:
        return retried(read, tar)
    except _OddMember as error:
        raise UserError(f"{tar} {error}") from None
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{tar} cannot be read: {reason(error)}") from None
        raise UserError(f"{tar} is no {kind}, or damaged or cut off ({error})") from None


def _files_of(tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The files of an archive, which has to have an end: else tarfile takes what is before a gap for all."""
    for member in tar:
        if member.islnk() or member.issym():
            raise _OddMember(f"has the link {member.name[:80]!r}; expected files and folders")
        if member.isfile():
            yield _inner_name(member), member
    assert tar.fileobj is not None  # It is open for reading.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end of the archive")


def _inner_name(member: tarfile.TarInfo) -> str:
    """The name of a member without "./"; raises _OddMember for one that leads out of the archive."""
    name = posixpath.normpath(member.name)
    if name.startswith(("/", "../")) or name == "..":
        raise _OddMember(f"has a member named {member.name[:80]!r}; expected names within the archive")
    return name


def _is_hidden(name: str) -> bool:
    return any(map(is_hidden, name.split("/")))
