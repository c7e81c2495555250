"""Decompresses the frames of LZ4 and Zstandard, up to a size that nobody who means it exceeds."""

from typing import Any

from qsdt_jax.data.events.libraries import require
from qsdt_jax.errors import CorruptRecord

LARGEST = 2**28  # Bytes of one packet, of 16 million events.


def unpacked(data: bytes, method: str, name: str) -> bytes:
    """The content of a frame.

    Args:
      data: one frame, or what is not compressed.
      method: "none", "lz4" or "zstd".
      name: of the file, for messages.

    Raises:
      CorruptRecord: no frame, one that is cut off, or one that holds more than `LARGEST` bytes.
      UserError: the library is missing.
    """
    if method == "none":
        return data
    if method == "lz4":
        return _unpacked_lz4(data, require("lz4.frame", "lz4", name), name)
    return _unpacked_zstd(data, require("zstandard", "zstandard", name), name)


def _unpacked_lz4(data: bytes, library: Any, name: str) -> bytes:
    frame = library.LZ4FrameDecompressor()
    try:
        content = frame.decompress(data, max_length=LARGEST)
    except RuntimeError as error:
        raise CorruptRecord(f"{name}: has a packet that is no frame of LZ4 ({error})") from None
    if not frame.eof:
        cut = "that is cut off" if frame.needs_input else f"of more than {LARGEST:,} bytes"
        raise CorruptRecord(f"{name}: has a frame of LZ4 {cut}")
    return content


def _unpacked_zstd(data: bytes, library: Any, name: str) -> bytes:
    """What is missing of a frame that is cut off shows in the size before the content."""
    try:
        content = library.ZstdDecompressor().stream_reader(data).read(LARGEST + 1)
    except library.ZstdError as error:
        raise CorruptRecord(f"{name}: has a packet that is no frame of Zstandard ({error})") from None
    if len(content) > LARGEST:
        raise CorruptRecord(f"{name}: has a frame of Zstandard of more than {LARGEST:,} bytes")
    return content
