"""What a key of a configuration is."""

import dataclasses
from typing import Any

from qsdt_jax.configuration.rules import Rule

FLOAT32 = 3.4e38  # About the largest number of that type, for limits.


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of an experiment.

    Attributes:
      default: its value where a config says nothing.
      meaning: in a few words.
      rule: what its value may be; None where that depends on others, or the network checks it.
      limit: the largest magnitude, of each number in a tuple: nobody who means it comes near it.
      floor: the smallest positive value, for the same reason.
    """

    default: Any
    meaning: str
    rule: Rule | None = None
    limit: float | None = None
    floor: float | None = None

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if self.rule is not None and (fault := self.rule.fault(value)):
            return fault
        numbers = _numbers(value)
        if self.limit is not None and not all(abs(number) <= self.limit for number in numbers):
            shown = self.limit if isinstance(self.limit, int) else f"{self.limit:.3g}"
            return f"must be at most {shown}"
        if self.floor is not None and not all(number >= self.floor for number in numbers):
            return f"must be at least {self.floor}"
        return None


def _numbers(value: Any) -> list[int | float]:
    """Those in a value, also in tuples of tuples."""
    if isinstance(value, tuple | list):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []
