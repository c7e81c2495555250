"""Where the values of a program lie in one array, so that what is no longer read makes room."""

import dataclasses
from collections.abc import Sequence

from qsdt_jax.deploy.program import IMAGES, Program, inputs_of


@dataclasses.dataclass(frozen=True)
class Life:
    """Of a value: the first and the last step, by index, at which it has to be there; its elements."""

    first: int
    last: int
    elements: int

    def meets(self, other: "Life") -> bool:
        """Whether both have to be there at one step."""
        return self.first <= other.last and other.first <= self.last


def last_reads(program: Program) -> dict[str, int]:
    """The index of the last step that reads a value; one past the end for outputs and what none reads."""
    end = len(program.steps)
    found = dict.fromkeys([IMAGES, *(step.name for step in program.steps)], end)
    found |= {name: i for i, step in enumerate(program.steps) for name in inputs_of(step)}
    return found | {value: end for _, value in program.outputs}


def places(lives: Sequence[Life]) -> tuple[list[int], int]:
    """The first element of each value, and the elements of the array.

    The large values first, each in the first gap. No two values whose lives meet share an element.
    """
    found: dict[int, int] = {}
    for i in sorted(range(len(lives)), key=lambda i: -lives[i].elements):
        place, taken = 0, sorted((found[j], lives[j].elements) for j in found if lives[j].meets(lives[i]))
        for start, elements in taken:
            if place + lives[i].elements <= start:
                break
            place = max(place, start + elements)
        found[i] = place
    total = max((found[i] + life.elements for i, life in enumerate(lives)), default=0)
    return [found[i] for i in range(len(lives))], total
