"""Nodes and constants of an ONNX graph, appended one by one; the optional package onnx is handed in."""

from typing import Any

import numpy as np


class Nodes:
    """What `deploy.onnx` builds its graph of.

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
