"""What the value of a key may be: each rule tells what is wrong with a value, in one line."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol


class Rule(Protocol):
    """What the value of a key may be."""

    @property
    def allowed(self) -> str:
        """Its good values in a few words, as "at least 0"."""
        ...

    def fault(self, value: Any) -> str | None:
        """What is wrong, as it follows "config.KEY=VALUE "; None for a good value."""
        ...


@dataclasses.dataclass(frozen=True)
class Within:
    """A finite number, at least `smallest` and at most `largest`."""

    smallest: float
    largest: float = math.inf

    @property
    def allowed(self) -> str:
        upper = f" and at most {self.largest:g}" if math.isfinite(self.largest) else ""
        return f"at least {self.smallest}{upper}"

    def fault(self, value: Any) -> str | None:
        good = is_finite(value) and self.smallest <= value <= self.largest
        return None if good else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class Share:
    """A number between 0 and 1, of which one end is left out."""

    with_one: bool

    @property
    def allowed(self) -> str:
        return "in (0, 1]" if self.with_one else "in [0, 1)"

    def fault(self, value: Any) -> str | None:
        good = 0 < value <= 1 if self.with_one else 0 <= value < 1
        return None if good else f"must lie {self.allowed}"


@dataclasses.dataclass(frozen=True)
class Shares:
    """One or more numbers between 0 and 1, in ascending order."""

    allowed = "one or more ascending numbers between 0 and 1"

    def fault(self, value: Any) -> str | None:
        good = len(value) > 0 and all(is_finite(number) and 0 < number < 1 for number in value)
        good = good and all(first < second for first, second in itertools.pairwise(value))
        return None if good else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class Positive:
    """A finite number above 0."""

    allowed = "positive"

    def fault(self, value: Any) -> str | None:
        return None if is_finite(value) and value > 0 else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of some texts."""

    choices: Sequence[str]

    @property
    def allowed(self) -> str:
        return ", ".join(self.choices)

    def fault(self, value: Any) -> str | None:
        return None if value in self.choices else f"is none of {self.allowed}"


@dataclasses.dataclass(frozen=True)
class SomeOf:
    """One or more of some texts, each once."""

    choices: Sequence[str]

    @property
    def allowed(self) -> str:
        return f"one or more of {', '.join(self.choices)}, each once"

    def fault(self, value: Any) -> str | None:
        # By lists and not by sets: the flag parser does not check what the items are.
        good = value and all(one in self.choices and value.count(one) == 1 for one in value)
        return None if good else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class Texts:
    """Texts, each once; also none."""

    allowed = "texts, each once"

    def fault(self, value: Any) -> str | None:
        good = all(isinstance(one, str) and value.count(one) == 1 for one in value)
        return None if good else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class Range:
    """A pair 0 < low <= high <= largest, of any or of whole numbers."""

    largest: float = math.inf
    whole: bool = False

    @property
    def allowed(self) -> str:
        upper = f" <= {self.largest:g}" if math.isfinite(self.largest) else ""
        return f"a pair {'of whole numbers ' * self.whole}0 < low <= high{upper}"

    def fault(self, value: Any) -> str | None:
        good = len(value) == 2 and all(map(is_finite, value)) and 0 < value[0] <= value[1] <= self.largest
        good = good and not (self.whole and any(not isinstance(number, int) for number in value))
        return None if good else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Finite numbers, any of them or those above 0."""

    positive: bool

    @property
    def allowed(self) -> str:
        return "positive numbers" if self.positive else "numbers"

    def fault(self, value: Any) -> str | None:
        good = all(is_finite(number) and (number > 0 or not self.positive) for number in value)
        return None if good else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class WholeNumbers:
    """So many whole numbers, as channels have."""

    count: int

    @property
    def allowed(self) -> str:
        return f"{self.count} whole numbers"

    def fault(self, value: Any) -> str | None:
        # The flag parser checks neither their number nor their types.
        good = len(value) == self.count and all(isinstance(number, int) for number in value)
        return None if good else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class SeveralWhole:
    """One or more whole numbers above 0."""

    allowed = "one or more whole numbers above 0"

    def fault(self, value: Any) -> str | None:
        good = len(value) > 0 and all(isinstance(number, int) and number > 0 for number in value)
        return None if good else f"must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class Sides:
    """Height and width, which the strides of the network divide."""

    stride: int

    @property
    def allowed(self) -> str:
        return f"multiples of {self.stride}"

    def fault(self, value: Any) -> str | None:
        if fault := WholeNumbers(2).fault(value):
            return fault
        good = all(side >= self.stride and side % self.stride == 0 for side in value)
        return None if good else f": height and width must be {self.allowed}"


@dataclasses.dataclass(frozen=True)
class Several:
    """Any number of tuples of one kind, also none."""

    each: Rule

    @property
    def allowed(self) -> str:
        return f"several, each {self.each.allowed}"

    def fault(self, value: Any) -> str | None:
        for one in value:
            if not isinstance(one, tuple | list):
                return f"has {one!r}; expected a tuple"
            if fault := self.each.fault(one):
                return f"has {one!r}{'' if fault.startswith(':') else ', which '}{fault}"
        return None


@dataclasses.dataclass(frozen=True)
class NoneOr:
    """What another rule says, or an empty tuple."""

    each: Rule

    @property
    def allowed(self) -> str:
        return f"() or {self.each.allowed}"

    def fault(self, value: Any) -> str | None:
        return None if len(value) == 0 or self.each.fault(value) is None else f"must be {self.allowed}"


def is_finite(value: Any) -> bool:
    """Whether it is a number and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
