"""The integer form as an ONNX graph: the same counts and logits, bit for bit, in ONNX Runtime.

    session = onnxruntime.InferenceSession("model.onnx")
    (logits,) = session.run(["logits"], {"images": images})     # float32 (B, H, W, C), normalised, any B

Weights are INT4 initialisers, or INT8 above 4 bits, which a Cast widens when the graph is loaded; counts are
UINT8. What the graph is made of (opset 21), and why it gives the same bits:

    MatMulInteger    products of counts with 1x1 kernels, and with the others, whose patches Slice and Concat
                     lay side by side. Channels stay last, as this product wants them: ONNX Runtime multiplies
                     UINT8 by packed INT8 in 8-bit instructions, twice as fast as float32. Its ConvInteger,
                     channels first, is slower than float32 with INT8 weights.
    Conv             depthwise kernels, which ConvInteger runs 20 times slower, and the stem. Operands are
                     float32, but whole numbers, whose sums stay below 2^24: exact in any order.
    MatMul           of real values, cut into digits (`core.exact`), and of attention: whole numbers again,
                     DOUBLE where those of attention can pass 2^24.
    Cast, Mul, Add   counts to real values, one rounding an operation. ONNX Runtime folds a factor into the
                     weights of a Conv and a sum into its accumulation, which would round otherwise; a Max
                     with the least float behind each Conv prevents it.
    Clip, Add, Cast  the neuron: clip(v, 0, D) + 1/2, and the cast to UINT8 cuts off what follows the point.
    Gather, Add, Mul bilinear neighbours, and their sums times 1/4; ONNX Runtime's Resize adds otherwise.
    LessOrEqual, Where, ReduceMax   the unit of the digits: the largest power of two, of a list of all, that
                     is not above the largest value. ONNX cannot look at the bits of a float.

A factor that is a power of two changes no rounding. So the unit of the digits goes into the scale that
follows, and D, if it is one, into the scale and shift of a layer that only a neuron reads.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.core.exact import LARGEST_FLOAT32, attention_sum
from qsdt_jax.deploy.graphs.onnx_nodes import Nodes, finished, import_onnx
from qsdt_jax.deploy.packing import pack
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
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.product import kernel_digits
from qsdt_jax.layers.tokens import factors_of_counts

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 21, 10  # The first with INT4; ONNX Runtime has read them since 1.20.
LEAST_FLOAT = np.finfo(np.float32).min


def export_onnx(
    program: Program,
    image_size: tuple[int, int],
    *,
    metadata: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
) -> bytes:
    """The serialized model, weights included, for batches of any size.

    Its input is "images", float32 (B, H, W, C), or (B, T, H, W, C) frames where T > 1; its outputs are the
    program's, float32 (B, H', W', C'), but "logits" of an image and not of its pixels (B, K). Images have no
    padding.

    Args:
      program: a folded network.
      image_size: (height, width) in pixels, multiples of 16.
      metadata: texts by name that are stored with the model.
      also: names of `Fire` steps whose counts, UINT8 (B * T, H', W', C'), are outputs as well.

    Raises:
      UserError: the package onnx is not installed.
    """
    onnx = import_onnx()
    return finished(onnx, _Graph(onnx, program, image_size).model(also), metadata)


class _Graph(Nodes):
    """Nodes and initialisers, appended step by step; the shape of each value is known but for its first axis.

    Attributes:
      sizes: (H, W, C) of each value of the program.
    """

    def __init__(self, onnx: Any, program: Program, image_size: tuple[int, int]):
        super().__init__(onnx)
        self.program = program
        self.sizes = {IMAGES: (*image_size, program.in_channels)}
        self.potentials = _potentials(program)

    def model(self, also: Sequence[str]) -> "onnx.ModelProto":
        """The graph of all steps."""
        helper, types = self.onnx.helper, self.onnx.TensorProto
        neuron = self.program.neuron
        size = self.sizes[IMAGES]
        values, shape = {IMAGES: IMAGES}, ("batch", *size)
        if neuron.timesteps > 1:
            shape = ("batch", neuron.timesteps, *size)
            values[IMAGES] = self.op("Reshape", IMAGES, self.whole([-1, *size]))
        for step in self.program.steps:
            values[step.name] = self.step(step, values)
        outputs = []
        for name, value in self.program.outputs:
            found = self.sizes[value]
            kept = found[2:] if name == LOGITS and found[:2] == (1, 1) else found
            self.mean_over_time(values[value], kept, neuron.timesteps, name)
            outputs.append(helper.make_tensor_value_info(name, types.FLOAT, ("batch", *kept)))
        for name in also:
            self.op("Identity", values[name], name=name)
            outputs.append(helper.make_tensor_value_info(name, types.UINT8, ("frames", *self.sizes[name])))
        images = helper.make_tensor_value_info(IMAGES, types.FLOAT, shape)
        return self.made([images], outputs, opset=OPSET, ir_version=IR_VERSION)

    def step(self, step: Step, values: dict[str, str]) -> str:
        """Appends a step; the name of its value in the graph."""
        inputs = [values[name] for name in inputs_of(step)]
        size = self.sizes[inputs_of(step)[0]]
        match step:
            case Linear():
                return self.linear(step, *inputs)
            case Fire():
                result = self.fire(step, *inputs)
            case Attend():
                result = self.attend(step, *inputs)
            case Add():
                result = self.op("Add", *inputs)
            case Pool():
                result, size = self.mean(*inputs, size=size), (1, 1, size[-1])
            case Resize(factor=factor):
                result, size = self.resize(*inputs, factor=factor), _enlarged(size, factor)
            case Bilinear():
                result, size = self.bilinear(*inputs, size=size), _enlarged(size, 2)
            case _:
                raise UserError(f"{step.name} is a step of a detector, which has no ONNX form")
        self.sizes[step.name] = size
        return result

    # --- Steps -------------------------------------------------------------------------------------------

    def linear(self, layer: Linear, x: str) -> str:
        geometry, (kh, kw) = layer.geometry, layer.weights.shape[:2]
        height, width = (
            (size + 2 * geometry.padding - k) // geometry.stride + 1
            for size, k in zip(self.sizes[layer.input], (kh, kw), strict=False)
        )
        self.sizes[layer.name] = (height, width, layer.weights.shape[-1])
        if not layer.spikes:
            terms = math.prod(layer.weights.shape[:3]) * 2 ** (layer.bits - 1)
            digits, unit = self.digits(x, [1, 2, 3], terms)
            product = self.sum([self.real_product(layer, digit) for digit in digits])
            return self.affine(layer, product, unit)
        if layer.bits == FLOAT_BITS:
            return self.selection(layer, x)
        return self.affine(layer, self.whole_product(layer, x))

    def selection(self, layer: Linear, x: str) -> str:
        """A layer of float weights, `layers.product.exact_selection` by the digits of its weights."""
        digits = kernel_digits(jnp.asarray(layer.weights), self.program.neuron.levels)
        unit = np.asarray(digits.unit).reshape(-1)
        product = ""
        for i, digit in enumerate(digits.digits):
            name = f"{layer.name}/digit{i}"
            self.sizes[name] = self.sizes[layer.name]
            part = layer.replace(name=name, bits=8, weights=np.asarray(digit, np.int8))
            total = self.whole_product(part, x)
            if product:
                total = self.op("Add", self.op("Mul", product, self.real(digits.base)), total)
            product = total
        return self.affine(layer.replace(scale=np.asarray(layer.scale) * unit), product)

    def whole_product(self, layer: Linear, x: str) -> str:
        """FLOAT conv(counts, weights), whole numbers."""
        if layer.geometry.groups == 1:
            return self.to_float(self.integer_product(layer, x))
        return self.convolution(layer, self.to_float(x))

    def affine(self, layer: Linear, product: str, unit: str = "") -> str:
        """product * unit * scale + shift, in counts where only a neuron reads it."""
        factor = np.float32(self.program.neuron.scale if layer.name in self.potentials else 1)
        scale = self.real(np.asarray(layer.scale) * factor)
        y = self.op("Mul", product, self.op("Mul", scale, unit) if unit else scale)
        return self.op("Add", y, self.real(np.asarray(layer.shift) * factor))

    def integer_product(self, layer: Linear, x: str) -> str:
        """INT32 conv(counts, weights) of all but depthwise kernels."""
        geometry, (kh, kw, _, outputs) = layer.geometry, layer.weights.shape
        matrix = self.weights(layer, np.asarray(layer.weights).reshape(-1, outputs), "INT8")
        if (kh, kw, geometry.stride) == (1, 1, 1):
            return self.pad(self.op("MatMulInteger", x, matrix), geometry.padding)
        return self.op("MatMulInteger", self.patches(self.pad(x, geometry.padding), layer), matrix)

    def patches(self, x: str, layer: Linear) -> str:
        """(N, H', W', kh * kw * C): what each output of a layer sees of the padded x."""
        stride = layer.geometry.stride
        height, width, _ = self.sizes[layer.name]
        steps, axes = self.whole([stride, stride]), self.whole([1, 2])
        shifted = []
        for i, j in np.ndindex(layer.weights.shape[:2]):
            ends = self.whole([i + (height - 1) * stride + 1, j + (width - 1) * stride + 1])
            shifted.append(self.op("Slice", x, self.whole([i, j]), ends, axes, steps))
        return self.op("Concat", *shifted, axis=3)

    def real_product(self, layer: Linear, x: str) -> str:
        """conv(x, weights) of whole numbers in float32."""
        if layer.weights.shape[:2] != (1, 1) or layer.geometry != ConvGeometry():
            return self.convolution(layer, x)
        return self.op("MatMul", x, self.weights(layer, np.asarray(layer.weights)[0, 0], "FLOAT"))

    def convolution(self, layer: Linear, x: str) -> str:
        """conv(x, weights) of whole numbers in float32, with channels first in between."""
        geometry, weights = layer.geometry, np.asarray(layer.weights).transpose(3, 2, 0, 1)
        y = self.op(
            "Conv",
            self.op("Transpose", x, perm=[0, 3, 1, 2]),
            self.weights(layer, weights, "FLOAT"),
            group=geometry.groups,
            pads=[geometry.padding] * 4,
            strides=[geometry.stride] * 2,
        )
        y = self.op("Max", y, self.real(LEAST_FLOAT))  # So that nothing is folded into the Conv.
        return self.op("Transpose", y, perm=[0, 2, 3, 1])

    def fire(self, step: Fire, x: str) -> str:
        neuron = self.program.neuron
        if step.input_gain != 1:
            x = self.op("Mul", x, self.real(step.input_gain))
        if neuron.timesteps == 1:
            return self.counts(x, in_counts=step.input in self.potentials)
        size = self.sizes[step.input]
        currents = self.op("Reshape", x, self.whole([-1, neuron.timesteps, *size]))
        membrane, emitted = "", []
        for t in range(neuron.timesteps):
            current = self.op("Gather", currents, self.whole(t), axis=1)
            membrane = self.op("Add", membrane, current) if membrane else current
            emitted.append(self.counts(membrane))
            membrane = self.decayed(membrane, emitted[-1])
        axis = self.whole([1])
        counts = self.op("Concat", *(self.op("Unsqueeze", c, axis) for c in emitted), axis=1)
        return self.op("Reshape", counts, self.whole([-1, *size]))

    def counts(self, potential: str, *, in_counts: bool = False) -> str:
        """`neurons.spike_count`, as UINT8."""
        neuron, v = self.program.neuron, potential
        if neuron.scale != 1 and not in_counts:
            v = self.op("Mul", v, self.real(neuron.scale))
        if neuron.threshold != 0.5:
            v = self.op("Sub", v, self.real(neuron.threshold - 0.5))
        v = self.op("Clip", v, self.real(0), self.real(neuron.levels))
        return self.op("Cast", self.op("Add", v, self.real(0.5)), to=self.onnx.TensorProto.UINT8)

    def decayed(self, membrane: str, counts: str) -> str:
        """What is left of the membrane in the next time step."""
        neuron, counts = self.program.neuron, self.to_float(counts)
        if neuron.reset == "hard":
            silent = self.op("LessOrEqual", counts, self.real(0))
            left = self.op("Where", silent, membrane, self.real(0))
        else:
            left = self.op("Sub", membrane, self.op("Mul", counts, self.real(1 / neuron.scale)))
        return self.op("Mul", left, self.real(neuron.decay))

    def attend(self, step: Attend, q: str, k: str, v: str) -> str:
        height, width, channels = self.sizes[step.q]
        tokens, per_head = height * width, channels // step.heads
        largest = attention_sum(tokens, per_head, self.program.neuron.levels)
        to = "FLOAT" if largest <= LARGEST_FLOAT32 else "DOUBLE"
        split = self.whole([-1, tokens, step.heads, per_head])

        def heads(x: str, perm: list[int]) -> str:
            x = self.op("Transpose", self.op("Reshape", x, split), perm=perm)
            return self.op("Cast", x, to=self.onnx.TensorProto.DataType.Value(to))

        kv = self.op("MatMul", heads(k, [0, 2, 3, 1]), heads(v, [0, 2, 1, 3]))
        y = self.op("MatMul", heads(q, [0, 2, 1, 3]), kv)
        y = self.op("Transpose", y if to == "FLOAT" else self.to_float(y), perm=[0, 2, 1, 3])
        y = self.op("Reshape", y, self.whole([-1, height, width, channels]))
        factor = factors_of_counts(step.scale, step.tokens, tokens, np.float32)[tokens]
        return self.op("Mul", y, self.real(factor))

    def mean(self, x: str, size: tuple[int, ...]) -> str:
        """`core.exact.exact_mean` over the pixels."""
        count = size[0] * size[1]
        digits, unit = self.digits(x, [1, 2], count)
        total = self.sum([self.op("ReduceSum", digit, self.whole([1, 2])) for digit in digits])
        return self.op("Mul", total, self.op("Mul", unit, self.real(1 / count)))

    def weights(self, layer: Linear, values: np.ndarray, to: str) -> str:
        """The weights of a layer, laid out as `values`, widened to the operands of a product."""
        types, bits = self.onnx.TensorProto, 4 if layer.bits <= 4 else 8
        stored = types(name=layer.name, data_type=types.DataType.Value(f"INT{bits}"), dims=values.shape)
        stored.raw_data = pack(values, bits)
        self.initializers[layer.name] = stored
        if to == f"INT{bits}":
            return layer.name
        widened = f"{layer.name}:{to}"
        if not any(widened in node.output for node in self.nodes):
            self.op("Cast", layer.name, name=widened, to=types.DataType.Value(to))
        return widened


def _enlarged(size: tuple[int, int, int], factor: int) -> tuple[int, int, int]:
    height, width, channels = size
    return factor * height, factor * width, channels


def _potentials(program: Program) -> set[str]:
    """The layers whose result one neuron reads and nothing else, and that may count it in spikes."""
    neuron = program.neuron
    if neuron.timesteps > 1 or math.frexp(neuron.scale)[0] != 0.5:
        return set()
    readers = Counter(name for step in program.steps for name in inputs_of(step))
    readers.update(value for _, value in program.outputs)
    fired = {step.input for step in program.steps if isinstance(step, Fire)}
    return {layer.name for layer in program.layers if layer.name in fired and readers[layer.name] == 1}
