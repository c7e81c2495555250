"""Events as text, one a line, of numbers with commas, semicolons or spaces between them.

A line of names before them tells the columns, see `columns`. Without one they are t, x, y and p, as v2e and
the text files of the RPG have them; there the width and the height of the sensor may stand in a first line of
their own. Lines that begin with '#' are comments. A time with a point in it is in seconds.
"""

import io

import numpy as np

from qsdt_jax.data.events.formats.columns import NAMES, recording_of
from qsdt_jax.data.events.record import FIELDS, LARGEST_SENSOR, Recording
from qsdt_jax.errors import CorruptRecord
from qsdt_jax.file_kinds import kind_of

COLUMNS = ("t", "x", "y", "p")


def read_text(data: bytes, name: str, *, named: bool) -> Recording:
    """The events of a text.

    Args:
      data: content of the file.
      name: of the stream, for messages.
      named: whether the columns have to be named, as in .csv files, whose order is anybody's guess.

    Raises:
      CorruptRecord: no text, lines of other than numbers or of different lengths, or what is no stream.
    """
    if found := kind_of(data):
        raise CorruptRecord(f"{name}: is {found}; expected a text of events")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CorruptRecord(f"{name}: is no text; expected one of events") from None
    lines = io.StringIO(text, newline=None)
    first = _next(lines)
    names, sensor_size = COLUMNS, None
    if not all(map(_is_number, _parts(first))):
        names, first = tuple(_parts(first)), _next(lines)
    elif named:
        found = repr(first.strip()[:60])
        raise CorruptRecord(f"{name}: expected a first line that names the columns; found {found}")
    elif len(sides := _parts(first)) == 2:
        sensor_size, first = _sensor_size(sides, name), _next(lines)
    if not first:
        raise CorruptRecord(f"{name}: has no events")
    table = _numbers(first, lines, len(names), name)
    columns = dict(zip(names, table.T, strict=True))
    if len(columns) != len(names):
        raise CorruptRecord(f"{name}: names a column twice; expected one each of {', '.join(FIELDS)}")
    return recording_of(columns, name, sensor_size, seconds=_has_point(first, names))


def _next(lines: io.StringIO) -> str:
    """The next line that says something; "" at the end."""
    for line in lines:
        if line.partition("#")[0].strip():
            return line
    return ""


def _parts(line: str) -> list[str]:
    said = line.partition("#")[0].strip()
    return [part.strip().strip('"') for part in said.split(_delimiter(line))]


def _delimiter(line: str) -> str | None:
    """What is between the numbers of a line, whatever its comment holds; None for spaces."""
    said = line.partition("#")[0]
    return next((delimiter for delimiter in ",;" if delimiter in said), None)


def _numbers(first: str, lines: io.StringIO, columns: int, name: str) -> np.ndarray:
    """float64 (events, columns), of the first line of events and those after it."""
    try:
        rows = [first, *lines]
        table = np.loadtxt(rows, np.float64, delimiter=_delimiter(first), ndmin=2)
    except (ValueError, IndexError) as error:
        reason = " ".join(str(error).split()).partition("; use")[0]
        raise CorruptRecord(f"{name}: is no table of numbers ({reason[:100]})") from None
    if table.shape[1] != columns:
        raise CorruptRecord(f"{name}: has {table.shape[1]} numbers a line; expected {columns}")
    return table


def _is_number(part: str) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _has_point(first: str, names: tuple[str, ...]) -> bool:
    """Whether the first time is written with a point, and is in seconds though it be whole."""
    fields = [NAMES.get(said.lower()) for said in names]
    time = _parts(first)[fields.index("t")] if "t" in fields else ""
    return "." in time or "e" in time.lower()


def _sensor_size(sides: list[str], name: str) -> tuple[int, int]:
    """(height, width) of a line that tells width and height."""
    if not all(side.isdecimal() and len(side) < 6 and 1 <= int(side) <= LARGEST_SENSOR for side in sides):
        raise CorruptRecord(
            f"{name}: expected the width and the height of a sensor in a line of two numbers; "
            f"found {' '.join(sides)[:60]!r}"
        )
    width, height = map(int, sides)
    return height, width
