"""What the value of a key may be: each rule tells what is wrong with a value, in one line."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol


class Rule(Protocol):
    """What the value of a key may be."""

    def fault(self, value: Any) -> str | None:
        """What is wrong, as it follows "config.KEY=VALUE "; None for a good value."""
        ...


@dataclasses.dataclass(frozen=True)
class Within:
    """A finite number, at least `smallest` and at most `largest`."""

    smallest: float
    largest: float = math.inf

    def fault(self, value: Any) -> str | None:
        if is_finite(value) and self.smallest <= value <= self.largest:
            return None
        upper = f" and at most {self.largest:g}" if math.isfinite(self.largest) else ""
        return f"must be at least {self.smallest}{upper}"


@dataclasses.dataclass(frozen=True)
class Share:
    """A number between 0 and 1, of which one end is left out."""

    with_one: bool

    def fault(self, value: Any) -> str | None:
        if 0 < value <= 1 if self.with_one else 0 <= value < 1:
            return None
        return f"must lie in {'(0, 1]' if self.with_one else '[0, 1)'}"


@dataclasses.dataclass(frozen=True)
class Positive:
    """A finite number above 0."""

    def fault(self, value: Any) -> str | None:
        return None if is_finite(value) and value > 0 else "must be positive"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of some texts."""

    choices: Sequence[str]

    def fault(self, value: Any) -> str | None:
        return None if value in self.choices else f"is none of {', '.join(self.choices)}"


@dataclasses.dataclass(frozen=True)
class Range:
    """A pair 0 < low <= high <= largest."""

    largest: float = math.inf

    def fault(self, value: Any) -> str | None:
        if len(value) == 2 and all(map(is_finite, value)) and 0 < value[0] <= value[1] <= self.largest:
            return None
        upper = f" <= {self.largest:g}" if math.isfinite(self.largest) else ""
        return f"must be a pair 0 < low <= high{upper}"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Finite numbers, any of them or those above 0."""

    positive: bool

    def fault(self, value: Any) -> str | None:
        if all(is_finite(number) and (number > 0 or not self.positive) for number in value):
            return None
        return f"must be {'positive ' * self.positive}numbers"


@dataclasses.dataclass(frozen=True)
class WholeNumbers:
    """So many whole numbers, as channels or sides."""

    count: int

    def fault(self, value: Any) -> str | None:
        # The flag parser checks neither their number nor their types.
        if len(value) == self.count and all(isinstance(number, int) for number in value):
            return None
        return f"must be {self.count} whole numbers"


@dataclasses.dataclass(frozen=True)
class Sides(WholeNumbers):
    """Height and width, which the strides of the network divide."""

    stride: int

    def fault(self, value: Any) -> str | None:
        if fault := super().fault(value):
            return fault
        if all(side >= self.stride and side % self.stride == 0 for side in value):
            return None
        return f": height and width must be multiples of {self.stride}"


def is_finite(value: Any) -> bool:
    """Whether it is a number and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
