"""A compiled program of XLA read from its text: computations, operations, and the memory that types take."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
PARENTHESIS = re.compile(r"[()]")
NAME = re.compile(r"%([\w.-]+)")
ARRAY = re.compile(r"\b(pred|[a-z]+\d\w*)\[([\d,]*)\]")
CALLED = re.compile(r"\b(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a program: NAME = TYPE OPCODE(OPERANDS), ATTRIBUTES.

    Attributes:
      operands: their names; of a parameter or a constant none.
      argument: what stands in the parentheses, as the number of a parameter.
      is_root: whether it is the result of its computation.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    argument: str
    attributes: str
    is_root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it names, in its order; the condition of a loop is left out."""
        branches = BRANCHES.search(self.attributes)
        others = NAME.findall(branches[1]) if branches else []
        return (*CALLED.findall(self.attributes), *others)

    @property
    def rounds(self) -> int:
        """How often a loop runs, 1 where the compiler does not know."""
        trips = TRIPS.search(self.attributes)
        return int(trips[1]) if trips else 1

    def attribute(self, name: str) -> str:
        """The value of `name=value`, a word or what stands in quotes; empty where there is none."""
        found = re.search(rf'\b{name}=(?:"([^"]*)"|([^\s,]+))', self.attributes)
        return (found[1] or found[2]) if found else ""


class Computation(Mapping[str, Operation]):
    """The operations of a computation by name, in the order in which they run."""

    def __init__(self, operations: list[Operation]):
        self._operations = {operation.name: operation for operation in operations}

    def __getitem__(self, name: str) -> Operation:
        return self._operations[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._operations)

    def __len__(self) -> int:
        return len(self._operations)

    @functools.cached_property
    def root(self) -> Operation:
        """Its result."""
        *_, last = self.values()
        return next((operation for operation in self.values() if operation.is_root), last)

    @functools.cached_property
    def users(self) -> dict[str, list[Operation]]:
        """Of each operation those that take its result."""
        users: dict[str, list[Operation]] = {name: [] for name in self}
        for operation in self.values():
            for name in set(operation.operands) & users.keys():
                users[name].append(operation)
        return users

    def type_of(self, name: str) -> str:
        """The type of an operation; empty where it is not of this computation."""
        return self[name].type if name in self else ""


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program by name, and the name of the one that runs."""

    computations: Mapping[str, Computation]
    entry: str


def read_program(text: str) -> Program:
    """The program of a text, as `jax.stages.Compiled.as_text` gives it."""
    found: dict[str, list[Operation]] = {}
    name = entry = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name = match[2]
            entry = name if match[1] else entry
            found[name] = []
        elif name and (match := OPERATION.match(line)):
            found[name].append(_operation(match[2], match[3], bool(match[1])))
    return Program({name: Computation(own) for name, own in found.items()}, entry)


def _operation(name: str, text: str, is_root: bool) -> Operation:
    """Of the text behind the equals sign."""
    end = _end_of_parentheses(text) if text.startswith("(") else text.index(" ")
    opcode, parenthesis, rest = text[end:].lstrip().partition("(")
    rest = parenthesis + rest
    end_of_operands = _end_of_parentheses(rest)
    argument = rest[1 : end_of_operands - 1]
    operands = () if opcode in ("parameter", "constant") else tuple(NAME.findall(argument))
    return Operation(name, text[:end], opcode, operands, argument, rest[end_of_operands:], is_root)


def _end_of_parentheses(text: str) -> int:
    """The place behind the parenthesis that closes the one that a text begins with."""
    depth = 0
    for match in PARENTHESIS.finditer(text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    return len(text)


def arrays_of(type: str) -> list[tuple[str, tuple[int, ...]]]:
    """The arrays of a type, (element type, shape) each; a tuple has several."""
    return [(kind, tuple(map(int, filter(None, shape.split(","))))) for kind, shape in ARRAY.findall(type)]


def bytes_of(type: str) -> float:
    """What the arrays of a type take in memory. Half a byte for an element of 4 bits."""
    return sum(math.prod(shape) * _bits(kind) / 8 for kind, shape in arrays_of(type))


def _bits(kind: str) -> int:
    digits = re.search(r"\d+", kind)
    return int(digits[0]) if digits else 8  # A truth value takes a byte.
