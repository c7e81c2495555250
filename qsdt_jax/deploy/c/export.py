"""A classifier as one C99 file and its header: integer arithmetic, no library, static memory.

What a spike selects is summed in int32_t; floats are where the program has real values: a scale and a shift
after each product, the neurons, and the digits that real values are cut into (`core.exact`). The file gives
the logits of the NumPy reader bit for bit wherever float is IEEE 754 and rounds operation by operation.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from qsdt_jax.core.exact import LARGEST_INT32
from qsdt_jax.deploy.c.functions import FORWARD, OF_BYTES, START, functions, is_depthwise
from qsdt_jax.deploy.c.header import header_of
from qsdt_jax.deploy.c.memory import Life, last_reads, places
from qsdt_jax.deploy.c.tables import comment, filled, quoted, real, table
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import shapes_of
from qsdt_jax.deploy.program import (
    IMAGES,
    LOGITS,
    Add,
    Attend,
    Fire,
    Linear,
    Pool,
    Program,
    Step,
    inputs_of,
)
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.product import kernel_digits
from qsdt_jax.layers.tokens import factors_of_counts

CODE, HEADER = "qsdt_model.c", "qsdt_model.h"
BYTES = {"float": 4, "int32_t": 4, "int16_t": 2, "uint8_t": 1}
FLOAT_DIGITS, WIDEST_DIGIT = 24, 12  # Bits: all of a float32, and the most of a digit of real values.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The texts of a network in C99.

    Attributes:
      code, header: of the files `CODE` and `HEADER`.
      buffer_bytes: of static memory that is written to.
      table_bytes: of constants: weights, scales, shifts, and the inputs that bytes of an image become.
      images: (T, H, W, C), what it takes as real values.
      counts: (T, H', W', C') of each neuron by its name, in the order in which they fire.
      classes: K.
    """

    code: str
    header: str
    buffer_bytes: int
    table_bytes: int
    images: tuple[int, ...]
    counts: Mapping[str, tuple[int, ...]]
    classes: int


def export_c(
    program: Program,
    image_size: tuple[int, int],
    *,
    pixels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    origin: str = "",
) -> Source:
    """The texts of a classifier.

    Args:
      program: a folded network that `validity.check_program` lets pass.
      image_size: (height, width) in pixels, multiples of 16.
      pixels: float32 (256, C), the input that each byte of an image becomes; None where inputs are no bytes.
      class_names: where they are known.
      origin: a line that says where the network is from.

    Raises:
      UserError: it is no classifier, or a step of it is not said in C.
    """
    for step in program.steps:
        if not isinstance(step, Linear | Fire | Attend | Add | Pool):
            kind = type(step).__name__
            raise UserError(f"{step.name} ({kind}) has no C form, which is for networks that classify images")
    shapes = {
        name: value.shape for name, value in shapes_of(program, image_size, IntegerArithmetic()).items()
    }
    _, height, width, _ = shapes[dict(program.outputs)[LOGITS]]
    if (height, width) != (1, 1):
        raise UserError(
            f"the network gives logits of {height}x{width} pixels, but its C form is for networks that "
            "classify images"
        )
    return _Writer(program, shapes, pixels).source(class_names, origin)


class _Writer:
    """The texts of one program; a step is known by its index among the steps.

    Attributes:
      shapes, sizes: (T, H, W, C) and (H, W, C) of each value.
      digits: of each layer of float weights.
      places: where each value is, as C says it.
      elements: of the two arrays that hold values.
    """

    def __init__(self, program: Program, shapes: Mapping[str, tuple[int, ...]], pixels: np.ndarray | None):
        self.program, self.shapes, self.pixels = program, shapes, pixels
        self.sizes = {name: shape[1:] for name, shape in shapes.items()}
        floats = [layer for layer in program.layers if layer.bits == FLOAT_BITS]
        levels = program.neuron.levels
        self.digits = {layer.name: kernel_digits(jnp.asarray(layer.weights), levels) for layer in floats}
        self.places, self.elements = {}, {}
        last = last_reads(program)
        births = ([] if pixels is None else [(-1, IMAGES)]) + [
            (i, s.name) for i, s in enumerate(program.steps)
        ]
        fires = {step.name for step in program.steps if isinstance(step, Fire)}
        for array in ("reals", "counts"):
            lives = {
                name: Life(born, last[name], math.prod(shapes[name]))
                for born, name in births
                if (name in fires) == (array == "counts")
            }
            found, self.elements[array] = places(list(lives.values()))
            self.places |= {name: f"{array} + {place}" for name, place in zip(lives, found, strict=True)}

    def source(self, class_names: Sequence[str] | None, origin: str) -> Source:
        """The texts of both files."""
        buffers, buffer_bytes = self.buffers()
        tables = [text for i, step in enumerate(self.program.steps) for text in self.constants(i, step)]
        table_bytes = sum(self.bytes_of(layer) for layer in self.program.layers)
        if self.pixels is not None:
            told = "The input that each byte of an image becomes, channel by channel."
            tables.append(f"/* {told} */\n" + table("float", "pixels", self.pixels))
            table_bytes += 4 * self.pixels.size
        if class_names is not None:
            listed = "".join(f"    {quoted(name)},\n" for name in class_names)
            tables.append(f"const char *const qsdt_class_names[QSDT_CLASSES] = {{\n{listed}}};\n")
        height, width, channels = self.sizes[IMAGES]
        header = header_of(
            program=self.program,
            size=(height, width, channels),
            of_bytes=self.pixels is not None,
            named=class_names is not None,
            buffer_bytes=buffer_bytes,
            table_bytes=table_bytes,
            origin=origin,
        )
        parts = [START, buffers, *functions(self.program), *tables, self.network()]
        return Source(
            code="\n".join(parts),
            header=header,
            buffer_bytes=buffer_bytes,
            table_bytes=table_bytes,
            images=self.shapes[IMAGES],
            counts={
                step.name: self.shapes[step.name] for step in self.program.steps if isinstance(step, Fire)
            },
            classes=self.program.num_classes,
        )

    def buffers(self) -> tuple[str, int]:
        """The arrays that are written to, and their bytes."""
        layers, attends = self.program.layers, [s for s in self.program.steps if isinstance(s, Attend)]
        largest = max((math.prod(self.sizes[x.input]) for x in layers if not x.spikes), default=0)
        head = max((self.sizes[step.q][2] // step.heads for step in attends), default=0)
        # A mean sums digits, of which there are no more than a float has bits.
        sums = max(FLOAT_DIGITS, head, *(layer.weights.shape[3] for layer in layers))
        arrays = (
            ("float", "reals", self.elements["reals"], "values of the steps"),
            ("uint8_t", "counts", self.elements["counts"], "spike counts, 0 to D"),
            ("int32_t", "sums", sums, "of one pixel"),
            ("int32_t", "products", head**2, "k^T v of a head"),
            ("float", "remainders", largest, "of real values, below the digits so far"),
            ("int16_t", "digits", largest, "of real values, all of one place"),
        )
        total = sum(BYTES[kind] * number for kind, _, number, _ in arrays)
        if total > LARGEST_INT32:
            raise UserError(
                f"its C form would have {total:,} bytes of buffers; expected at most {LARGEST_INT32:,}"
            )
        lines = (f"static {kind} {name}[{n}]; /* {what} */\n" for kind, name, n, what in arrays if n)
        return "/* All memory that is written to. */\n" + "".join(lines), total

    # --- Constants ---------------------------------------------------------------------------------------

    def bytes_of(self, layer: Linear) -> int:
        """Of the constants of a layer."""
        vectors = 3 if layer.name in self.digits else 2
        return self.weights_of(layer).size + vectors * 4 * layer.weights.shape[3]

    def weights_of(self, layer: Linear) -> np.ndarray:
        """int8 weights; the digits of float weights, the most significant first."""
        digits = self.digits.get(layer.name)
        return np.asarray(layer.weights if digits is None else digits.digits).astype(np.int8)

    def constants(self, i: int, step: Step) -> Iterator[str]:
        """Those of a step, where it has any."""
        if isinstance(step, Pool):
            height, width, _ = self.sizes[step.input]
            yield _cut_of(i, height * width)
        if not isinstance(step, Linear):
            return
        geometry, vectors = step.geometry, [("scale", step.scale), ("shift", step.shift)]
        if step.name in self.digits:
            vectors.append(("unit", self.digits[step.name].unit))
        yield f"/* {comment(step.name)} */\n" + table("int8_t", f"weights_{i}", self.weights_of(step))
        for name, vector in vectors:
            yield table("float", f"{name}_{i}", np.asarray(vector))
        numbers = (*self.sizes[step.input], *self.sizes[step.name], *step.weights.shape[:2])
        numbers = (*numbers, geometry.stride, geometry.padding, int(is_depthwise(step)))
        fields = ", ".join([*map(str, numbers), f"weights_{i}", f"scale_{i}", f"shift_{i}"])
        yield f"static const struct layer layer_{i} = {{{fields}}};\n"
        if not step.spikes:
            yield _cut_of(i, math.prod(step.weights.shape[:3]) * 2 ** (step.bits - 1))

    # --- The network -------------------------------------------------------------------------------------

    def network(self) -> str:
        """The functions that the header declares."""
        calls = (
            f"    /* {comment(step.name)}: {self.told(step)} */\n    {self.call(i, step)};\n"
            for i, step in enumerate(self.program.steps)
        )
        logits = dict(self.program.outputs)[LOGITS]
        forward = filled(
            FORWARD,
            steps="".join(calls),
            logits=self.places[logits],
            share=real(1 / self.program.neuron.timesteps),
        )
        return forward if self.pixels is None else forward + filled(OF_BYTES, images=self.places[IMAGES])

    def told(self, step: Step) -> str:
        """What a step does, for people."""
        match step:
            case Linear():
                kind = "depthwise " if is_depthwise(step) else ""
                height, width, *_ = step.weights.shape
                of = "counts" if step.spikes else "real values"
                weights = "float" if step.bits == FLOAT_BITS else f"{step.bits}-bit"
                what = f"{kind}{height}x{width} convolution of {of} with {weights} weights"
            case Fire():
                what = "neurons"
            case Attend():
                what = f"attention of {step.heads} heads"
            case Add():
                what = "sum"
            case _:
                what = "mean over the pixels"
        return f"{what}, gives {'x'.join(map(str, self.sizes[step.name]))}"

    def call(self, i: int, step: Step) -> str:
        """The call of a step's function."""
        height, width, channels = self.sizes[inputs_of(step)[0]]
        read = ["images" if name == IMAGES else self.places[name] for name in inputs_of(step)]
        where = [*read, self.places[step.name]]
        match step:
            case Linear():
                name, more = "layer_of_reals", [f"&layer_{i}", f"&cut_{i}"]
                if step.name in self.digits:
                    digits = self.digits[step.name]
                    name = "layer_of_float_weights"
                    more = [f"&layer_{i}", len(digits.digits), real(digits.base), f"unit_{i}"]
                elif step.spikes:
                    name, more = "layer_of_spikes", [f"&layer_{i}"]
            case Fire():
                name, more = "fire", [height * width * channels, real(step.input_gain)]
            case Attend():
                tokens = height * width
                factor = factors_of_counts(step.scale, step.tokens, tokens, np.float32)[tokens]
                name, more = "attend", [tokens, channels, step.heads, real(factor)]
            case Add():
                name, more = "add", [f"QSDT_TIMESTEPS * {height * width * channels}"]
            case _:
                share = real(1 / (height * width))
                name, more = "mean_of_pixels", [height * width, channels, share, f"&cut_{i}"]
        return f"{name}({', '.join(map(str, [*where, *more]))})"


def _cut_of(i: int, terms: int) -> str:
    """How real values are cut for sums of `terms` products with 1 or -1: `core.exact.to_digits`."""
    bits = min(WIDEST_DIGIT, FLOAT_DIGITS + 1 - (terms - 1).bit_length())
    count = -(-FLOAT_DIGITS // bits)
    place, shrink = 2.0 ** (bits * (count - 1)), 2.0 ** (2 - count * bits)
    return (
        f"static const struct cut cut_{i} = {{{count}, {real(2.0**bits)}, {real(place)}, {real(shrink)}}};\n"
    )
