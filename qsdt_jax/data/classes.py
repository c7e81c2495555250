"""What the outputs of a network mean: the one place that holds data and networks to the same classes.

Labels and outputs are numbers. They mean the same only where both number the same classes in the same order,
so whoever brings data and a network together asks here first.
"""

import dataclasses
import re
from collections.abc import Sequence

import jax

from qsdt_jax.data.class_folders import composed
from qsdt_jax.errors import UserError
from qsdt_jax.progress import tell

SHOWN = 3
NUMBERED = re.compile(r"(\D*)(\d{1,18})(\D*)")  # Python converts no more than 4,300 digits.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """What is known of the classes of a network or of a split.

    Attributes:
      where: what it is called in a message, e.g. "the network in runs/digits".
      outputs: their number.
      names: one for each output, in order; None where they are not known.
    """

    where: str
    outputs: int
    names: tuple[str, ...] | None

    @property
    def shown(self) -> tuple[str, ...]:
        """The names, or the numbers of the outputs where the names are not known."""
        return numbers(self.outputs) if self.names is None else self.names


def named(where: str, names: Sequence[str]) -> Classes:
    """Classes whose names are known."""
    return Classes(where=where, outputs=len(names), names=tuple(names))


def numbers(outputs: int) -> tuple[str, ...]:
    """The names "0", "1", ... of so many outputs."""
    return tuple(map(str, range(outputs)))


def require_same_classes(data: Sequence[str], network: Classes, *, what: str) -> None:
    """Refuses data whose labels mean other classes than the outputs of a network.

    Where the network's classes are not known, one line says that their order is taken on trust.

    Args:
      data: the names of the data's classes, in the order of their labels.
      network: what is known of the other side.
      what: what the data are called, e.g. "the test split".

    Raises:
      UserError: the number, the names or the order of the classes differ. Names that are numbered, but do not
        stand in the order of their numbers, cannot be those of a network whose classes are not known.
    """
    if difference := class_difference(data, network, what=what):
        raise UserError(difference)
    tell_trust(data, network, what=what)


def class_difference(data: Sequence[str], network: Classes, *, what: str) -> str | None:
    """A line about what `require_same_classes` refuses; None where the classes are the same or on trust."""
    if len(data) != network.outputs:
        return f"{what} has {len(data)} classes, but {network.where} has {network.outputs}" + _only_in_one(
            data, network, what
        )
    if network.names is None:
        if _in_order(data):
            return None
        return (
            f"{what} has the classes {_listed(data)}, which do not stand in the order of their numbers, "
            f"and the classes of {network.where} are not known{_advice(data)}; or, if the network was "
            "trained in this order, import it with these names"
        )
    mine, theirs = _plain(data), _plain(network.names)
    for label, (found, expected) in enumerate(zip(data, network.names, strict=True)):
        if mine[label] != theirs[label]:
            others = set(mine) != set(theirs)
            kind = "other classes than" if others else "the classes of"
            order = "" if others else " in another order"
            return (
                f"{what} has {kind} {network.where}{order}: {found!r} where the network has {expected!r} "
                f"(class {label}){_advice(data)}"
            )
    return None


def tell_trust(data: Sequence[str], network: Classes, *, what: str) -> None:
    """Says, once for all processes, that the order of classes is taken on trust where it is."""
    if network.names is None and jax.process_index() == 0:
        tell(
            f"the classes of {network.where} are not known: its outputs {_listed(numbers(network.outputs))} "
            f"are taken, on trust, for the classes of {what} in their order: {_listed(data)}"
        )


def _only_in_one(data: Sequence[str], network: Classes, what: str) -> str:
    if network.names is None:
        return ""
    mine, others = set(data), set(network.names)
    for where, only in ((what, sorted(mine - others)), (network.where, sorted(others - mine))):
        if only:
            return f": only {where} has {only[0]!r}"
    return ""


def _plain(names: Sequence[str]) -> list[str]:
    """Names without what does not tell classes apart: the Unicode form, and zeros before a number.

    The zeros stay where they do tell them apart, as 1 from 01.
    """
    names = [composed(name) for name in names]
    plain = [(name.lstrip("0") or "0") if name.isdecimal() else name for name in names]
    return plain if len(set(plain)) == len(set(names)) else names


def _in_order(names: Sequence[str]) -> bool:
    """False for names with one number each, else equal, whose numbers do not rise."""
    found = _numbers_in(names)
    return found is None or found == sorted(found)


def _numbers_in(names: Sequence[str]) -> list[int] | None:
    """The numbers in names like 7 or class_7; None where the names are not all of one such kind."""
    matches = [NUMBERED.fullmatch(name) for name in names]
    if any(match is None for match in matches):
        return None
    parts = [match.groups() for match in matches if match is not None]
    return [int(number) for _, number, _ in parts] if len({(a, b) for a, _, b in parts}) == 1 else None


def _advice(names: Sequence[str]) -> str:
    if _in_order(names):
        return ""
    width = max(len(str(number)) for number in _numbers_in(names) or (0,))
    examples = ", ".join(str(number).zfill(width) for number in (1, 2, 10))
    return f"; folders are sorted as text, so give their numbers leading zeros ({examples})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
