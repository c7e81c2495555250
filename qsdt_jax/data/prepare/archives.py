"""Tars: of those that are not compressed, where each member's bytes lie; of the small rest, the bytes."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from qsdt_jax.data.prepare.records import FilePart
from qsdt_jax.errors import UserError


def members(tar: Path) -> list[tuple[str, FilePart]]:
    """The files of a tar by name, in the order of the archive.

    Raises:
      UserError: it is no tar, is compressed, or is cut off.
    """
    try:
        with open(tar, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            return [(m.name, FilePart(str(tar), m.size, m.offset_data)) for m in _files_of(archive)]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{tar} is no uncompressed tar, or damaged or cut off ({error})") from None


def nested_members(tar: Path) -> list[tuple[str, str, FilePart]]:
    """The files within the tars of a tar: name of the inner tar, of its member, and the member's bytes.

    Raises:
      UserError: as `members`.
    """
    found = []
    try:
        with open(tar, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as outer:
            for inner in _files_of(outer):
                part = outer.extractfile(inner)
                assert part is not None  # It is a file.
                with tarfile.open(fileobj=part, mode="r:") as tar_of_class:
                    for m in _files_of(tar_of_class):
                        content = FilePart(str(tar), m.size, inner.offset_data + m.offset_data)
                        found.append((inner.name, m.name, content))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{tar} is no tar of tars, or damaged or cut off ({error})") from None
    return found


def gzip_members(archive: Path) -> dict[str, bytes]:
    """The content of the files of a small tar.gz by name.

    Raises:
      UserError: it is no tar.gz, or damaged or cut off; its checksum tells.
    """
    try:
        with gzip.open(archive) as stream:
            content = io.BytesIO(stream.read())  # To the end, where the checksum is; tarfile stops before.
        with tarfile.open(fileobj=content, mode="r:") as tar:
            files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            return {name: file.read() for name, file in files.items() if file is not None}
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive} is no tar.gz, or damaged or cut off ({error})") from None


def _files_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of an archive, which has to have an end: else tarfile takes what is before a gap for all."""
    yield from (member for member in tar if member.isfile())
    assert tar.fileobj is not None  # It is open for reading.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end of the archive")
