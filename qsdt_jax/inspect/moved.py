"""Bytes that a kernel reads and writes: operands and result, but of what it touches in part, that part."""

from qsdt_jax.inspect.hlo import Computation, Operation, Program, bytes_of

PARTS_READ = ("slice", "dynamic-slice", "gather")
PARTS_WRITTEN = {"dynamic-update-slice": 1, "scatter": 2}  # By the place of what is written among operands.


def moved_bytes(operation: Operation, computation: Computation, program: Program) -> float:
    """Bytes that an operation of `computation` reads and writes, each time that it runs.

    What is read twice, or out of a cache, counts once. Of a fusion, an operand that is only sliced or
    gathered from counts with what is taken, and a result that is only updated in place with the update.
    """
    if operation.opcode == "fusion":
        called = program.computations[operation.called[0]]
        parameters = {int(p.argument): p for p in called.values() if p.opcode == "parameter"}
        read = sum(
            _read(parameters[place], called, bytes_of(computation.type_of(name)))
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


def _read(value: Operation, computation: Computation, size: float) -> float:
    """Bytes that a fusion reads of a parameter of `size` bytes, or of another name for it."""
    total = 0.0
    for user in computation.users[value.name]:
        first = user.operands[0] == value.name and value.name not in user.operands[1:]
        if user.opcode == "bitcast":
            total += _read(user, computation, size)
        elif first and user.opcode in PARTS_READ:
            total += bytes_of(user.type)
        elif first and user.opcode == "scatter":
            total += bytes_of(computation.type_of(user.operands[PARTS_WRITTEN["scatter"]]))
        elif not (first and user.opcode == "dynamic-update-slice"):
            return size
    return min(total, size)


def _written(value: Operation, computation: Computation) -> float:
    """Bytes that a fusion writes of its result, or of a part of it."""
    if value.opcode == "tuple":
        return sum(_written(computation[name], computation) for name in value.operands)
    if value.opcode == "bitcast" and value.operands[0] in computation:
        return min(_written(computation[value.operands[0]], computation), bytes_of(value.type))
    if value.opcode in PARTS_WRITTEN:
        return bytes_of(computation.type_of(value.operands[PARTS_WRITTEN[value.opcode]]))
    return bytes_of(value.type)
