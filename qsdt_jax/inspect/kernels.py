"""The kernels of a compiled program: how many, of which kind, what each moves, multiplies and sends."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

from qsdt_jax.inspect.hlo import Computation, Operation, Program, bytes_of
from qsdt_jax.inspect.moved import moved_bytes
from qsdt_jax.inspect.products import Product, pallas_name, products_of

Phase = Literal["forward", "backward", "the rest"]
# What runs nothing: it names memory, or waits.
NO_KERNELS = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "domain",
    "async-update",
    "async-done",
}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
FUSIONS = {"kLoop": "element by element", "kInput": "reductions, scatters and transpositions"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What runs at once on a device.

    Attributes:
      kind: in words.
      phase: of differentiation; "the rest" is the optimiser above all, and all of what is not differentiated.
      times: how often it runs.
      moved: bytes that it reads and writes, each time.
      products: that it computes.
      sent: bytes of its result if it is communication, else 0.
    """

    kind: str
    phase: Phase
    times: int
    moved: float
    products: tuple[Product, ...] = ()
    sent: float = 0.0

    @property
    def flops(self) -> float:
        """Of its products, each time."""
        return sum(product.flops for product in self.products)


def kernels_of(program: Program) -> list[Kernel]:
    """All kernels of one run of a program on one device.

    A loop counts as often as it runs, once where the compiler does not know; of branches the one that moves
    most counts.
    """
    return list(_kernels(program, program.entry, 1))


def total_moved(kernels: Iterable[Kernel]) -> float:
    """Bytes that kernels read and write in one run."""
    return sum(kernel.times * kernel.moved for kernel in kernels)


def sent_by_kind(kernels: Iterable[Kernel]) -> dict[str, float]:
    """Bytes of the results of each kind of communication in one run, on one device."""
    sent: dict[str, float] = {}
    for kernel in kernels:
        if kernel.sent:
            sent[kernel.kind] = sent.get(kernel.kind, 0) + kernel.times * kernel.sent
    return sent


def _kernels(program: Program, name: str, times: int) -> Iterator[Kernel]:
    computation = program.computations[name]
    for operation in computation.values():
        if operation.opcode in NO_KERNELS:
            continue
        if operation.opcode in ("while", "call", "async-start"):
            for called in operation.called:
                yield from _kernels(program, called, times * operation.rounds)
        elif operation.opcode == "conditional":
            branches = [list(_kernels(program, called, times)) for called in operation.called]
            yield from max(branches, key=total_moved, default=[])
        else:
            yield from _kernel(operation, computation, program, times)


def _kernel(operation: Operation, computation: Computation, program: Program, times: int) -> Iterator[Kernel]:
    """The kernel of an operation; what is started and waited for counts where it ends."""
    opcode = operation.opcode.removesuffix("-done")
    if opcode.endswith("-start"):
        return
    if operation.opcode != opcode:  # The result of a pair alone; what is moved is that and as much again.
        moved = 2 * bytes_of(operation.type)
    else:
        moved = moved_bytes(operation, computation, program)
    products = tuple(products_of(operation, computation, program))
    sent = bytes_of(operation.type) if opcode in COLLECTIVES else 0.0
    yield Kernel(_kind(opcode, operation, products), _phase(operation), times, moved, products, sent)


def _kind(opcode: str, operation: Operation, products: tuple[Product, ...]) -> str:
    if name := pallas_name(operation):
        return f"{name}, by Pallas"
    if products:
        return f"{products[0].operation}s"
    if opcode == "fusion":
        return FUSIONS.get(operation.attribute("kind"), "other fusions")
    if opcode == "custom-call":
        return operation.attribute("custom_call_target")
    return opcode


def _phase(operation: Operation) -> Phase:
    """By the name that differentiation gives to what it makes."""
    name = operation.attribute("op_name")
    if "transpose(" in name:
        return "backward"
    return "forward" if "jvp(" in name else "the rest"
