"""Tars: of those that are not compressed, where each member's bytes lie; of the small rest, the bytes."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from qsdt_jax.data.prepare.records import FilePart
from qsdt_jax.errors import UserError


def members(tar: Path) -> list[tuple[str, FilePart]]:
    """The files of a tar by name, in the order of the archive.

    Raises:
      UserError: it is no tar, is compressed, or is cut off.
    """
    try:
        with open(tar, "rb") as stream:
            return [(m.name, FilePart(str(tar), m.size, m.offset_data)) for m in _files(stream)]
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
            for inner in outer:
                part = outer.extractfile(inner)
                if part is None:
                    continue
                for m in _files(part):
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
            files = {member.name: tar.extractfile(member) for member in tar}
            return {name: file.read() for name, file in files.items() if file is not None}
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive} is no tar.gz, or damaged or cut off ({error})") from None


def _files(stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        yield from (member for member in tar if member.isfile())
