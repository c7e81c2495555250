"""The products of a compiled program: what they multiply, in which types, and how much of it."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from qsdt_jax.inspect.hlo import Computation, Operation, Program, arrays_of

CONVOLUTION, DOT = "convolution", "matrix product"
LABELS = re.compile(r"dim_labels=\w+_(\w+)->")  # Of the axes of the kernel.
CONTRACTED = re.compile(r'lhs_contracting_dim(?:s|ensions)\W+([\d,"\s]*)')
FULL_PRECISION = re.compile(r"operand_precision\W+highest", re.IGNORECASE)


PALLAS = re.compile(
    r"(\w+)/(?:pallas_call|custom_partitioning)"
)  # The name of a kernel of `layers.lowering.kernels`.


class Product(NamedTuple):
    """One product of a kernel.

    Attributes:
      operation: CONVOLUTION or DOT.
      left, right, result: types of the elements.
      full: whether operands of float32 are multiplied in full precision; by default they lose bits.
      flops: a multiplication and an addition are two.
    """

    operation: str
    left: str
    right: str
    result: str
    full: bool
    flops: float


def products_of(operation: Operation, computation: Computation, program: Program) -> Iterator[Product]:
    """The products that an operation of `computation` computes, of a fusion all that are in it."""
    target = operation.attribute("custom_call_target")
    if name := pallas_name(operation):
        yield from _of_pallas(name, [_shape(computation.type_of(operand)) for operand in operation.operands])
    if operation.opcode in ("fusion", "call", "async-start"):
        for name in operation.called:
            called = program.computations[name]
            for inner in called.values():
                yield from products_of(inner, called, program)
    elif operation.opcode == "dot" or target.startswith("__cublas"):
        yield _product(DOT, operation, computation, _of_dot(operation, computation))
    elif operation.opcode == "convolution" or target.startswith("__cudnn$conv"):
        yield _product(CONVOLUTION, operation, computation, _of_convolution(operation, computation))


def pallas_name(operation: Operation) -> str | None:
    """The name of a kernel that Pallas has made; None for others."""
    found = PALLAS.search(operation.attribute("op_name")) if operation.opcode == "custom-call" else None
    return found[1] if found else None


def _of_pallas(name: str, shapes: list[tuple[int, ...]]) -> Iterator[Product]:
    """Those of a kernel of `layers.lowering.kernels`, given the shapes of its operands."""
    # Of rows of heads (N, L, heads, d) with d x d matrices.
    of_heads = 2 * math.prod(shapes[0]) * shapes[0][-1]
    match name:
        case "attention":
            yield Product(DOT, "bf16", "bf16", "f32", False, 2 * of_heads)
        case "attention_gradients":
            yield Product(DOT, "bf16", "bf16", "f32", False, 5 * of_heads)
        case "digit_product":  # Of two digits, as nearly all.
            yield Product(DOT, "f16", "f16", "f32", False, 2 * 2 * math.prod(shapes[0]) * shapes[2][1])


def _product(kind: str, operation: Operation, computation: Computation, flops: float) -> Product:
    left, right = (arrays_of(computation.type_of(name))[0][0] for name in operation.operands[:2])
    full = FULL_PRECISION.search(operation.attributes) is not None
    return Product(kind, left, right, arrays_of(operation.type)[0][0], full, flops)


def _of_dot(operation: Operation, computation: Computation) -> float:
    """Operations of a matrix product: for each element of the result what is summed for it."""
    dims = CONTRACTED.search(operation.attributes)
    axes = [int(axis) for axis in re.findall(r"\d+", dims[1])] if dims else []
    left = _shape(computation.type_of(operation.operands[0]))
    return 2 * math.prod(_shape(operation.type)) * math.prod(left[axis] for axis in axes)


def _of_convolution(operation: Operation, computation: Computation) -> float:
    """Operations of a convolution or of a gradient of one: all multiply as often.

    For each element that the forward convolution gives, all of the kernel but its axis of outputs. cuDNN's
    gradients have the labels of the forward convolution, and take (x, dy) or (dy, kernel).
    """
    left, right = (_shape(computation.type_of(name)) for name in operation.operands[:2])
    result = _shape(operation.type)
    match operation.attribute("custom_call_target"):
        case "__cudnn$convBackwardFilter":
            kernel, outputs = result, right
        case "__cudnn$convBackwardInput":
            kernel, outputs = right, left
        case _:
            kernel, outputs = right, result
    labels = LABELS.search(operation.attributes)
    channels = kernel[labels[1].index("o")] if labels else 1
    return 2 * math.prod(outputs) * math.prod(kernel) / max(channels, 1)


def _shape(type: str) -> tuple[int, ...]:
    """Of the first array of a type."""
    return arrays_of(type)[0][1]
