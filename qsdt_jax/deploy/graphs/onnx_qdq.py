"""A program with QuantizeLinear and DequantizeLinear: what compilers for hardware take of quantized networks.

    a neuron    Mul, Clip, Add, Floor, QuantizeLinear, Clip, DequantizeLinear: counts 0..D, as UINT8 and as
                floats. It rounds half up, QuantizeLinear half to even; potentials of attention often lie
                exactly between two counts, so Floor comes first.
    a layer     DequantizeLinear, Conv, Mul, Add: weights as INT8 and as floats, scale and shift of a channel,
                in which the step of LSQ, the worth of a spike and batch normalisation are.
    the rest    MatMul and Mul for attention, Add, GlobalAveragePool, Resize.

All pairs have the scale 1. So what comes of spikes is a whole number below 2^24: the same in float, in any
order, and in integer kernels that a compiler may put in its place. Layers that take real values or have
float weights, means and bilinear neighbours are not exact here: a runtime rounds these sums as it adds them,
while other forms compute them exactly (`core.exact`). A potential that this moves across a threshold changes
a count. `deploy.graphs.onnx_integer` keeps all bits.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qsdt_jax.core.exact import LARGEST_FLOAT32, attention_sum
from qsdt_jax.deploy.graphs.onnx_nodes import NEAREST, Nodes, finished, import_onnx
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import shapes_of
from qsdt_jax.deploy.program import (
    IMAGES,
    LOGITS,
    Add,
    Attend,
    Bilinear,
    Fire,
    Linear,
    Pool,
    Program,
    Resize,
    Step,
    inputs_of,
)
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.tokens import factors_of_counts

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 13, 7  # The first with a scale for each channel, so that old compilers read it.


def export_qdq(
    program: Program, image_size: tuple[int, int], *, metadata: Mapping[str, str] | None = None
) -> bytes:
    """The serialized model, weights and the shapes of all values included, for batches of any size.

    Inputs and outputs are those of `deploy.graphs.onnx_integer.export_onnx`; in between, channels come first
    and every value has the name of its step.

    Args:
      program: a folded network.
      image_size: (height, width) in pixels, multiples of 16.
      metadata: texts by name that are stored with the model.

    Raises:
      UserError: the package onnx is not installed.
    """
    onnx = import_onnx()
    model = onnx.shape_inference.infer_shapes(
        _Graph(onnx, program, image_size).model(), strict_mode=True, data_prop=True
    )
    return finished(onnx, model, metadata)


class _Graph(Nodes):
    """Nodes and initialisers, appended step by step.

    Attributes:
      sizes: (H, W, C) of each value of the program.
    """

    def __init__(self, onnx: Any, program: Program, image_size: tuple[int, int]):
        super().__init__(onnx)
        self.program = program
        shapes = shapes_of(program, image_size, IntegerArithmetic())
        self.sizes = {name: value.shape[1:] for name, value in shapes.items()}

    def model(self) -> "onnx.ModelProto":
        """The graph of all steps."""
        helper, types = self.onnx.helper, self.onnx.TensorProto
        timesteps, size = self.program.neuron.timesteps, self.sizes[IMAGES]
        frames, shape = IMAGES, ["batch", *size]
        if timesteps > 1:
            frames, shape = self.op("Reshape", IMAGES, self.whole([-1, *size])), ["batch", timesteps, *size]
        values = {IMAGES: self.op("Transpose", frames, perm=[0, 3, 1, 2])}
        for step in self.program.steps:
            values[step.name] = self.step(step, *(values[name] for name in inputs_of(step)))
        outputs = []
        for name, value in self.program.outputs:
            size = self.sizes[value]
            kept = size[2:] if name == LOGITS and size[:2] == (1, 1) else size
            self.output(values[value], kept, name)
            outputs.append(helper.make_tensor_value_info(name, types.FLOAT, ("batch", *kept)))
        images = helper.make_tensor_value_info(IMAGES, types.FLOAT, shape)
        return self.made([images], outputs, opset=OPSET, ir_version=IR_VERSION)

    def step(self, step: Step, *inputs: str) -> str:
        """Appends a step; the name of its value, (N, C, H, W), which is the step's own."""
        match step:
            case Linear():
                return self.linear(step, *inputs)
            case Fire():
                return self.fire(step, *inputs)
            case Attend():
                return self.attend(step, *inputs)
            case Add():
                return self.op("Add", *inputs, name=step.name)
            case Pool():
                return self.op("GlobalAveragePool", *inputs, name=step.name)
            case Resize(factor=factor):
                scales = self.real([1, 1, factor, factor])
                return self.op("Resize", *inputs, "", scales, name=step.name, **NEAREST)
            case Bilinear():
                return self.op("Resize", *inputs, "", self.real([1, 1, 2, 2]), name=step.name, mode="linear")
        raise UserError(f"{step.name} is a step of a detector, which has no Q/DQ form")

    def linear(self, layer: Linear, x: str) -> str:
        geometry, weights = layer.geometry, np.asarray(layer.weights).transpose(3, 2, 0, 1)
        y = self.op(
            "Conv",
            x,
            self.weights(layer, weights),
            group=geometry.groups,
            pads=[geometry.padding] * 4,
            strides=[geometry.stride] * 2,
            kernel_shape=list(weights.shape[2:]),
        )
        y = self.op("Mul", y, self.channels(layer.scale))
        return self.op("Add", y, self.channels(layer.shift), name=layer.name)

    def weights(self, layer: Linear, weights: np.ndarray) -> str:
        """The weights of a layer (O, I, kh, kw) as operands; float ones as they are."""
        name = f"{layer.name}:weights"
        if layer.bits == FLOAT_BITS:
            self.initializers[name] = self.onnx.numpy_helper.from_array(weights, name)
            return name
        self.initializers[name] = self.onnx.numpy_helper.from_array(weights.astype(np.int8), name)
        return self.op("DequantizeLinear", name, self.real(1), self.constant(np.zeros((), np.int8)))

    def channels(self, values: Any) -> str:
        """One number for each channel of (N, C, H, W)."""
        return self.real(np.reshape(values, (1, -1, 1, 1)))

    def fire(self, step: Fire, x: str) -> str:
        neuron = self.program.neuron
        if step.input_gain != 1:
            x = self.op("Mul", x, self.real(step.input_gain))
        if neuron.timesteps == 1:
            return self.counts(x, step.name)
        height, width, channels = self.sizes[step.name]
        currents = self.op("Reshape", x, self.whole([-1, neuron.timesteps, channels, height, width]))
        membrane, emitted = "", []
        for t in range(neuron.timesteps):
            current = self.op("Gather", currents, self.whole(t), axis=1)
            membrane = self.op("Add", membrane, current) if membrane else current
            emitted.append(self.counts(membrane, f"{step.name}:{t}"))
            membrane = self.decayed(membrane, emitted[-1])
        axis = self.whole([1])
        counts = self.op("Concat", *(self.op("Unsqueeze", c, axis) for c in emitted), axis=1)
        return self.op("Reshape", counts, self.whole([-1, channels, height, width]), name=step.name)

    def counts(self, potential: str, name: str) -> str:
        """Counts, called `name`; as UINT8 `name`:counts."""
        neuron, v = self.program.neuron, potential
        if neuron.scale != 1:
            v = self.op("Mul", v, self.real(neuron.scale))
        if neuron.threshold != 0.5:
            v = self.op("Sub", v, self.real(neuron.threshold - 0.5))
        v = self.op("Clip", v, self.real(0), self.real(neuron.levels))
        v = self.op("Floor", self.op("Add", v, self.real(0.5)))
        one, zero, most = self.real(1), self.byte(0), self.byte(neuron.levels)
        counts = self.op("QuantizeLinear", v, one, zero)
        # Changes nothing, but says how many bits a count has.
        counts = self.op("Clip", counts, zero, most, name=f"{name}:counts")
        return self.op("DequantizeLinear", counts, one, zero, name=name)

    def byte(self, value: int) -> str:
        return self.constant(np.array(value, np.uint8))

    def decayed(self, membrane: str, counts: str) -> str:
        """What is left of the membrane in the next time step."""
        neuron = self.program.neuron
        if neuron.reset == "hard":
            silent = self.op("LessOrEqual", counts, self.real(0))
            left = self.op("Where", silent, membrane, self.real(0))
        else:
            left = self.op("Sub", membrane, self.op("Mul", counts, self.real(1 / neuron.scale)))
        return self.op("Mul", left, self.real(neuron.decay))

    def attend(self, step: Attend, q: str, k: str, v: str) -> str:
        height, width, channels = self.sizes[step.q]
        tokens, per_head = height * width, channels // step.heads
        wide = attention_sum(tokens, per_head, self.program.neuron.levels) > LARGEST_FLOAT32
        split = self.whole([-1, step.heads, per_head, tokens])

        def heads(x: str) -> str:
            x = self.op("Reshape", x, split)
            return self.op("Cast", x, to=self.onnx.TensorProto.DOUBLE) if wide else x

        # With tokens last, y = (k^T v)^T q^T for each head.
        vk = self.op("MatMul", heads(v), self.op("Transpose", heads(k), perm=[0, 1, 3, 2]))
        y = self.op("MatMul", vk, heads(q))
        y = self.op("Reshape", self.to_float(y) if wide else y, self.whole([-1, channels, height, width]))
        factor = factors_of_counts(step.scale, step.tokens, tokens, np.float32)[tokens]
        return self.op("Mul", y, self.real(factor), name=step.name)

    def output(self, y: str, size: tuple[int, ...], name: str) -> None:
        """An output (B, *size), channels last, averaged over the time steps."""
        timesteps = self.program.neuron.timesteps
        last = "" if timesteps > 1 else name
        if len(size) == 1:
            y = self.op("Flatten", y, name=last)
        else:
            y = self.op("Transpose", y, perm=[0, 2, 3, 1], name=last)
        if timesteps > 1:
            self.mean_over_time(y, size, timesteps, name)
