"""Whether the tensors of a file are those that a network expects, and what is told where they are not."""

from collections.abc import Iterable, Mapping

from qsdt_jax.errors import UserError

Shape = tuple[int, ...] | str


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
    misfits = {
        "missing": [f"{k} {shape}" for k, shape in expected.items() if k not in found],
        "unknown": [f"{k} {shape}" for k, shape in found.items() if k not in expected],
        "of another shape": [
            f"{k} expected {shape} found {found[k]}"
            for k, shape in expected.items()
            if k in found and found[k] != shape
        ],
    }
    told = [f"{kind} ({len(names)}): {first(names)}" for kind, names in misfits.items() if names]
    if told:
        raise UserError(f"{label} does not fit {what}; {'; '.join(told)}")


def first(names: Iterable[str], count: int = 5) -> str:
    """The first names, and how many there are besides."""
    names = list(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
