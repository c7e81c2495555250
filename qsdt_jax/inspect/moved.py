"""Bytes that a kernel reads and writes: operands and result, but of what it touches in part, that part."""

from qsdt_jax.inspect.hlo import Computation, Operation, Program, bytes_of

PARTS_READ = ("slice", "dynamic-slice", "gather")
PARTS_WRITTEN = {"dynamic-update-slice": 1, "scatter": 2}  # By the place of what is written among operands.
# Of each operand they take what is taken of their result.
BY_ELEMENT = {
    "abs",
    "add",
    "and",
    "bitcast",
    "ceil",
    "clamp",
    "compare",
    "convert",
    "copy",
    "cosine",
    "divide",
    "exponential",
    "exponential-minus-one",
    "floor",
    "log",
    "log-plus-one",
    "maximum",
    "minimum",
    "multiply",
    "negate",
    "not",
    "or",
    "power",
    "rsqrt",
    "select",
    "sign",
    "sine",
    "sqrt",
    "subtract",
    "tanh",
    "xor",
}


def moved_bytes(operation: Operation, computation: Computation, program: Program) -> float:
    """Bytes that an operation of `computation` reads and writes, each time that it runs.

    What is read twice, or out of a cache, counts once. Of a fusion, an operand that is only sliced or
    gathered from counts with what is taken, and a result that is only updated in place with the update.
    """
    if operation.opcode == "fusion":
        called = program.computations[operation.called[0]]
        parameters = {int(p.argument): p for p in called.values() if p.opcode == "parameter"}
        taken: dict[str, float] = {}
        read = sum(
            bytes_of(computation.type_of(name)) * _share_taken(parameters[place], called, taken)
            for place, name in enumerate(operation.operands)
        )
        return read + _written(called.root, called)
    sizes = [bytes_of(computation.type_of(name)) for name in operation.operands]
    result = bytes_of(operation.type)
    if operation.opcode in PARTS_READ:
        return 2 * result + sum(sizes[1:])
    if operation.opcode in PARTS_WRITTEN:
        return 2 * sizes[PARTS_WRITTEN[operation.opcode]]
    return sum(sizes) + result


def _share_taken(value: Operation, computation: Computation, known: dict[str, float]) -> float:
    """The share of a value of a fusion that the others take of it; `known` are those of other values."""
    if value.name not in known:
        parts = (_share_of_user(value, user, computation, known) for user in computation.users[value.name])
        known[value.name] = 1.0 if value.is_root else min(sum(parts), 1.0)
    return known[value.name]


def _share_of_user(
    value: Operation, user: Operation, computation: Computation, known: dict[str, float]
) -> float:
    first = user.operands[0] == value.name and value.name not in user.operands[1:]
    if user.opcode in BY_ELEMENT:
        return _share_taken(user, computation, known)
    size = bytes_of(value.type)
    if first and user.opcode in PARTS_READ:
        return bytes_of(user.type) / size * _share_taken(user, computation, known)
    if first and user.opcode == "scatter":
        return bytes_of(computation.type_of(user.operands[PARTS_WRITTEN["scatter"]])) / size
    return 0.0 if first and user.opcode == "dynamic-update-slice" else 1.0


def _written(value: Operation, computation: Computation) -> float:
    """Bytes that a fusion writes of its result, or of a part of it."""
    if value.opcode == "tuple":
        return sum(_written(computation[name], computation) for name in value.operands)
    if value.opcode == "bitcast" and value.operands[0] in computation:
        return min(_written(computation[value.operands[0]], computation), bytes_of(value.type))
    if value.opcode in PARTS_WRITTEN:
        return bytes_of(computation.type_of(value.operands[PARTS_WRITTEN[value.opcode]]))
    return bytes_of(value.type)
