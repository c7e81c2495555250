"""Whether the tensors of a file are those that a network expects, and what is told where they are not."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from qsdt_jax.errors import UserError

Shape = tuple[int, ...] | str


class Misfits(NamedTuple):
    """How tensors differ from those that are expected; shapes, or texts that tell the types as well, by name.

    Attributes:
      missing: what is expected and not found.
      unknown: what is found and not expected.
      reshaped: what is expected and found, of two shapes.
    """

    missing: dict[str, Shape]
    unknown: dict[str, Shape]
    reshaped: dict[str, tuple[Shape, Shape]]

    def __bool__(self) -> bool:
        return any(self._asdict().values())

    def told(self) -> dict[str, list[str]]:
        """Each misfit in words, by its kind; kinds of which there are none are left out."""
        told = {
            "missing": [f"{name} {shape}" for name, shape in self.missing.items()],
            "unknown": [f"{name} {shape}" for name, shape in self.unknown.items()],
            "of another shape": [
                f"{name} expected {expected} found {found}"
                for name, (expected, found) in self.reshaped.items()
            ],
        }
        return {kind: lines for kind, lines in told.items() if lines}


def misfits_of(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> Misfits:
    """What differs between shapes by name."""
    return Misfits(
        missing={name: shape for name, shape in expected.items() if name not in found},
        unknown={name: shape for name, shape in found.items() if name not in expected},
        reshaped={
            name: (shape, found[name])
            for name, shape in expected.items()
            if name in found and found[name] != shape
        },
    )


def check_fit(
    label: str, expected: Mapping[str, Shape], found: Mapping[str, Shape], *, what: str = "the model"
) -> None:
    """Refuses tensors that are missing, unknown or of another shape.

    Args:
      label: what they are read from.
      expected, found: shapes by name, or texts that tell the types as well.
      what: they are to fit, in the message.

    Raises:
      UserError: names the first five of each kind.
    """
    misfits = misfits_of(expected, found).told()
    told = [f"{kind} ({len(lines)}): {first(lines)}" for kind, lines in misfits.items()]
    if told:
        raise UserError(f"{label} does not fit {what}; {'; '.join(told)}")


def first(names: Iterable[str], count: int = 5) -> str:
    """The first names, and how many there are besides."""
    names = list(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
