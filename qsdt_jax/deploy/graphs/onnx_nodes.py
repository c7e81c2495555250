"""Nodes and constants of an ONNX graph, appended one by one; the optional package onnx is handed in."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qsdt_jax.errors import UserError

if TYPE_CHECKING:
    import onnx

FLOAT_BITS = 24
EXPONENTS = np.arange(-64, 128)  # Of the units: what is smaller than 2^-64 counts as that.
# Of a Resize: each pixel several times.
NEAREST = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}


def import_onnx() -> Any:
    """The package; raises UserError where it is not installed."""
    try:
        import onnx
    except ImportError:
        raise UserError("ONNX export needs the package onnx; pip install onnx") from None
    return onnx


def finished(onnx: Any, model: Any, metadata: Mapping[str, str] | None) -> bytes:
    """The serialized model with texts by name, once it is checked."""
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class Nodes:
    """What the graphs of ONNX are built of.

    Attributes:
      onnx: the package.
      nodes: so far, in the order in which they run.
      initializers: by name.
    """

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._constants: dict[tuple, str] = {}

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Appends a node; the name of its one output."""
        output = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def made(
        self, inputs: Sequence[Any], outputs: Sequence[Any], *, opset: int, ir_version: int
    ) -> "onnx.ModelProto":
        """The model of all nodes so far."""
        helper, constants = self.onnx.helper, list(self.initializers.values())
        graph = helper.make_graph(self.nodes, "qsdt", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="qsdt_jax")

    def to_float(self, x: str) -> str:
        return self.op("Cast", x, to=self.onnx.TensorProto.FLOAT)

    def pad(self, x: str, width: int) -> str:
        """x with zeros around the pixels."""
        return self.op("Pad", x, self.whole([0, width, width, 0] * 2)) if width else x

    def real(self, values: Any) -> str:
        return self.constant(np.asarray(values, np.float32))

    def whole(self, values: Any) -> str:
        return self.constant(np.asarray(values, np.int64))

    def constant(self, array: np.ndarray) -> str:
        """An initialiser; equal ones are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name = f"constant_{len(self._constants)}"
            self.initializers[name] = self.onnx.numpy_helper.from_array(array, name)
        return self._constants[key]

    def mean_over_time(self, y: str, size: tuple[int, ...], timesteps: int, name: str) -> None:
        """An output (B, *size) of y (B * T, *size), added up in the order of time."""
        steps = self.op("Reshape", y, self.whole([-1, timesteps, *size]))
        total = self.op("Gather", steps, self.whole(0), axis=1)
        for t in range(1, timesteps):
            total = self.op("Add", total, self.op("Gather", steps, self.whole(t), axis=1))
        self.op("Mul", total, self.real(1 / timesteps), name=name)

    # --- Maps ------------------------------------------------------------------------------------------

    def resize(self, x: str, *, factor: int) -> str:
        """Nearest neighbours, each pixel of x several times."""
        return self.op("Resize", x, "", self.real([1, factor, factor, 1]), **NEAREST)

    def bilinear(self, x: str, size: tuple[int, ...]) -> str:
        """`layers.upsample.bilinear_upsample` of x (N, *size)."""
        height, width, channels = size
        x = self.doubled(x, 1, (2 * height, width, channels))
        return self.doubled(x, 2, (2 * height, 2 * width, channels))

    def doubled(self, x: str, axis: int, size: tuple[int, ...]) -> str:
        """Twice the pixels along an axis, which gives (N, *size)."""
        pixels = np.arange(size[axis - 1] // 2)
        three, after = self.op("Add", self.op("Add", x, x), x), self.whole([axis + 1])
        pair = []
        for shift in (-1, 1):
            indices = self.whole(np.clip(pixels + shift, 0, pixels[-1]))
            total = self.op("Add", three, self.op("Gather", x, indices, axis=axis))
            pair.append(self.op("Unsqueeze", self.op("Mul", total, self.real(0.25)), after))
        return self.op("Reshape", self.op("Concat", *pair, axis=axis + 1), self.whole([-1, *size]))

    # --- Real values as digits ---------------------------------------------------------------------------

    def digits(self, x: str, axes: list[int], terms: int) -> tuple[list[str], str]:
        """`core.exact.to_digits`: digits, each in its place (times base^i), and their unit.

        Adding 1.5 * 2^(23 + n) rounds a smaller float32 to a multiple of 2^n; subtracting brings it back.
        """
        width = min(FLOAT_BITS // 2, FLOAT_BITS + 1 - (terms - 1).bit_length())
        count = math.ceil(FLOAT_BITS / width)
        largest = self.op("ReduceMax", self.op("Abs", x), self.whole(axes))
        unit = self.op("Mul", self.power_of_two(largest), self.real(2.0 ** (2 - count * width)))
        rest, digits = self.op("Round", self.op("Mul", x, self.op("Reciprocal", unit))), []
        for i in reversed(range(1, count)):
            far = self.real(1.5 * 2.0 ** (FLOAT_BITS - 1 + i * width))
            digits.append(self.op("Sub", self.op("Add", rest, far), far))
            rest = self.op("Sub", rest, digits[-1])
        return [*digits, rest], unit

    def power_of_two(self, x: str) -> str:
        """The largest power of two that is not above x >= 0."""
        powers = self.real(2.0**EXPONENTS)
        x = self.op("Unsqueeze", x, self.whole([-1]))
        below = self.op("Where", self.op("LessOrEqual", powers, x), powers, self.real(2.0 ** EXPONENTS[0]))
        return self.op("ReduceMax", below, self.whole([-1]), keepdims=0)

    def sum(self, products: list[str]) -> str:
        """`core.exact.Digits.joined`, but for the unit."""
        return functools.reduce(lambda total, digit: self.op("Add", total, digit), products)
