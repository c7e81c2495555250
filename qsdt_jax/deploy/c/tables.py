"""Arrays, numbers and texts as they are written in C99, so that a compiler reads back the same bits."""

import math
import string
from collections.abc import Iterable

import numpy as np

LINE = 100  # Characters, about, of a line of numbers.


def table(kind: str, name: str, values: np.ndarray) -> str:
    """The definition of a constant array; `kind` is int8_t or float."""
    write = real if kind == "float" else str
    numbers = map(write, np.ravel(values).tolist())
    return f"static const {kind} {name}[{values.size}] = {{\n{_lines(numbers)}\n}};\n"


def real(value: float) -> str:
    """A float32 number, in hexadecimal where its digits in decimal are not few."""
    value = float(np.float32(value))
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number that C can write")
    if value == int(value) and abs(value) < 2**24 and math.copysign(1, value) > 0:
        return f"{int(value)}.0f"
    mantissa, _, exponent = value.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


def quoted(value: str) -> str:
    """A string in UTF-8; what is neither a letter, a digit nor harmless is written as its bytes in octal."""
    plain = {*b" !#$%&'()*+,-./:;<=>@[]^_`{|}~"}
    plain |= {*string.ascii_letters.encode(), *string.digits.encode()}
    letters = (chr(byte) if byte in plain else f"\\{byte:03o}" for byte in value.encode())
    return f'"{"".join(letters)}"'


def comment(value: str) -> str:
    """A text that can stand in a comment: it does not end it, nor begin another."""
    return value.encode("ascii", "replace").decode().replace("*/", "* /").replace("/*", "/ *")


def filled(template: str, **values: str) -> str:
    """A text with each $name in it replaced, once."""
    return string.Template(template).substitute(values)


def _lines(items: Iterable[str]) -> str:
    lines, line = [], "   "
    for item in items:
        if len(line) > LINE:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([*lines, line])
