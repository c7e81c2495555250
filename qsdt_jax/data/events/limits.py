"""What a file of events may grow to in memory: a small one can say that it is, or unpack to, any size."""

from qsdt_jax.errors import CorruptRecord

MOST_EVENTS = 2**28  # Of a file: a camera gives 10^7 in a second.
MOST_BYTES = 32 * MOST_EVENTS
MOST_RATIO = 1032  # What Deflate packs at most; events are packed less than tenfold.


def check_count(events: int, name: str) -> None:
    """Raises CorruptRecord for more events than a recording has."""
    if events > MOST_EVENTS:
        raise CorruptRecord(f"{name}: has {events:,} events; expected at most {MOST_EVENTS:,}")


def check_unpacked(unpacked: int, stored: int, name: str) -> None:
    """Raises CorruptRecord for a file that takes more memory than a recording does.

    Args:
      unpacked: bytes in memory, of all that is read of the file.
      stored: bytes of the file.
      name: of the stream, for messages.
    """
    most = min(MOST_BYTES, MOST_RATIO * stored)
    if unpacked > most:
        raise CorruptRecord(
            f"{name}: unpacks to {unpacked:,} bytes, more than a recording of {stored:,} bytes; "
            f"expected at most {most:,}"
        )
