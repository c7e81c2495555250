"""Folding: the variables of a trained network -> a program of integers, scales and shifts.

Float weights stay what they are where spikes come in, which select them.

The network itself tells its steps: it is run in evaluation, with a `SymbolicArray` in the place of each
array. A product waits as a `Product` until all that follows it is composed into its scale and shift, by the
code of evaluation, in the same order, one rounded operation at a time. So the folded network gives the bits
of the evaluated one.
"""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from qsdt_jax.core.affine import Affine, real
from qsdt_jax.core.exact import rounded
from qsdt_jax.core.lsq import quantize_by_bits
from qsdt_jax.core.spikes import Spikes
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
)
from qsdt_jax.deploy.validity import check_counts, check_sums
from qsdt_jax.errors import UserError
from qsdt_jax.jit_once import jit_once
from qsdt_jax.layers.attention import QSDSA
from qsdt_jax.layers.bits_rules import FLOAT_BITS, bits_of
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.quantized import QConv, QDense
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.upsample import BilinearUpsample, NearestUpsample
from qsdt_jax.models import Backbone, Classifier, Segmenter
from qsdt_jax.models.backbone import STRIDE
from qsdt_jax.models.shapes import variable_shapes

EXPECTED = "so there are no integers to export; expected a network trained with 1 to 8 bits"
SHOWN = 5  # Faults that a message tells.
SIDE = 2 * STRIDE  # Pixels of the image that the network is run on; steps do not depend on it.


def fold(model: Classifier | Segmenter | Backbone, variables: Mapping[str, Any]) -> Program:
    """The program of a classifier or segmenter, whose output is called "logits", or of a backbone.

    A backbone's outputs are its stages.

    Args:
      model: with 1 to 8 weight bits in every layer; single layers that receive spikes may have float weights.
      variables: "params" and "batch_stats" of it, in any float type; the program is float32.

    Raises:
      UserError: weights of real values are float, or those of all layers without a rule; there are no spikes
        or they do not attend, or counts or sums are too large for int8 and float32.
      ValueError: the names and shapes of the variables are not those of the model.
    """
    backbone = model if isinstance(model, Backbone) else model.backbone
    _check_bits(backbone, variables)
    neuron = backbone.numerics.neuron
    if neuron is None or backbone.attention != "spiking":
        raise UserError(
            "only networks with spiking neurons and spiking attention can be exported; found "
            f"neuron={backbone.neuron}, attention={backbone.attention}"
        )
    check_counts(backbone.levels)
    single = backbone.clone(dtype=jnp.float32, param_dtype=jnp.float32)
    network = single if isinstance(model, Backbone) else model.clone(backbone=single)
    _check_variables(variable_shapes(network), variables)
    floats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), jax.device_get(dict(variables)))
    # Quotients and square roots are rounded correctly on a CPU, and not everywhere else.
    with on_the_cpu():
        program = jax.device_get(_compiled()(floats, network))
    for layer in program.layers:
        if layer.spikes:
            check_sums(layer.name, layer.weights, neuron.levels)
    return program


def _check_bits(backbone: Backbone, variables: Mapping[str, Any]) -> None:
    """Refuses a network whose layers have float weights if no rule says otherwise; raises UserError."""
    layers = ["/".join(path[:-1]) for path in flatten_dict(variables["params"]) if path[-1] == "kernel"]
    floats = [layer for layer in layers if bits_of(layer, backbone.bits_rules, backbone.bits) == FLOAT_BITS]
    if floats == layers:
        raise UserError(f"the network has float weights (bits=32), {EXPECTED}")
    if backbone.bits == FLOAT_BITS and floats:
        raise UserError(f"{_named(floats)} float weights (bits=32), {EXPECTED}")


def _named(layers: Sequence[str]) -> str:
    """The first of some layers, and "have" or "has"."""
    more = f" and {len(layers) - SHOWN} more layers" if len(layers) > SHOWN else ""
    return f"{', '.join(layers[:SHOWN])}{more} {'have' if len(layers) > 1 else 'has'}"


def on_the_cpu() -> contextlib.AbstractContextManager[Any]:
    """A context in which JAX computes on the CPU; raises UserError where it was told to leave that out."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        asked = jax.config.values["jax_platforms"]
        raise UserError(
            f"folding is computed on the CPU, but JAX_PLATFORMS={asked} leaves out the CPU; "
            f"expected JAX_PLATFORMS={asked},cpu"
        ) from None


@functools.cache
def _compiled() -> Any:
    """`_folded` as one program: by themselves its hundreds of small operations are compiled one by one.

    Made when it is needed, because JAX is asked for its backend. Equal networks are traced once.
    """
    return jit_once(_folded, static_argnames="model")


def _folded(variables: Mapping[str, Any], model: Classifier | Segmenter | Backbone) -> Program:
    """The program of a network, which tells its steps and outputs itself."""
    backbone = model if isinstance(model, Backbone) else model.backbone
    neuron = backbone.numerics.neuron
    assert neuron is not None
    folding = _Folding()
    images = SymbolicArray(IMAGES, (1, SIDE, SIDE, backbone.in_channels), folding.add)
    with nn.intercept_methods(folding.intercept):
        found: Any = model.apply(variables, images, method="features" if model is backbone else "__call__")
    if folding.floats:
        raise UserError(
            f"{_named(folding.floats)} float weights (32 bits by bits_rules) and real values to multiply, "
            f"{EXPECTED} where no spikes come in"
        )
    outputs = {LOGITS: found} if isinstance(found, SymbolicArray) else found
    return Program(
        steps=tuple(folding.steps),
        neuron=neuron,
        outputs=tuple((name, value.name) for name, value in outputs.items()),
    )


def _check_variables(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuses variables of other names or shapes than the network draws."""
    wanted, given = _shapes(expected), _shapes(found)
    faults = [
        *(f"lacks {name} {wanted[name]}" for name in sorted(wanted.keys() - given.keys())),
        *(f"has no place for {name} {given[name]}" for name in sorted(given.keys() - wanted.keys())),
        *(
            f"expects {name} {wanted[name]}, found {given[name]}"
            for name in sorted(wanted.keys() & given.keys())
            if wanted[name] != given[name]
        ),
    ]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ValueError(f"folding {'; '.join(faults[:SHOWN])}{more}")


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """By name, such as "params/head/kernel"."""
    leaves: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    return {name: jnp.shape(leaf) for name, leaf in leaves.items()}


@dataclasses.dataclass(frozen=True)
class SymbolicArray:
    """The result of a step, in the place of an array.

    Attributes:
      name: of the step.
      shape: that the network sees, for one frame; it may differ from the step's own.
      plus: appends the step that adds two of them, and returns its result.
    """

    name: str
    shape: tuple[int, ...]
    plus: Callable[["SymbolicArray", "SymbolicArray"], "SymbolicArray"]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __add__(self, other: "SymbolicArray") -> "SymbolicArray":
        return self.plus(self, other)

    def reshape(self, *shape: int) -> "SymbolicArray":
        return dataclasses.replace(self, shape=np.broadcast_to(0, self.shape).reshape(shape).shape)


class Product(Affine):
    """A product of integers, whose scale and shift are still being composed.

    `values` has the shape of the result; when it is asked for its real values, it becomes a step.
    """

    layer: Any = None
    finish: Any = None

    @property
    def real(self) -> SymbolicArray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.finish(self)

    def padded(self, border: int) -> "Product":
        """Zeros around a product without taps are what zeros around its spikes give."""
        assert self.layer["weights"].shape[:2] == (1, 1) and self.layer["spikes"]
        geometry = self.layer["geometry"]
        geometry = dataclasses.replace(geometry, padding=geometry.padding + border)
        n, height, width, channels = self.values.shape
        shape = (n, height + 2 * border, width + 2 * border, channels)
        return self.replace(
            layer={**self.layer, "geometry": geometry}, values=dataclasses.replace(self.values, shape=shape)
        )


class _Folding:
    """Appends a step for each operation of the network that is run."""

    def __init__(self):
        self.steps: list[Step] = []
        self.path: tuple[str, ...] = ()
        self.sums: Counter[tuple[str, ...]] = Counter()
        self.floats: list[str] = []  # Layers whose float weights are multiplied with real values.

    def intercept(self, call, args, kwargs, context) -> Any:
        """In the place of a method of a module of the network, for `nn.intercept_methods`."""
        module, method = context.module, context.method_name
        match module, method:
            case ((QConv() | QDense()), "__call__"):
                return self.product(module, args[0])
            case SpikingNeuron(), "__call__":
                return self.fire(module, args[0])
            case QSDSA(), QSDSA.product.__name__:
                return self.attend(module, *args)
            case Backbone(), Backbone.frames.__name__:
                return args[0]
            case Classifier(), Classifier.pooled.__name__:
                return self.append(Pool(name="pool", input=args[0].name), args[0].shape[::3])
            case (Classifier(), Classifier.over_time.__name__) | (Segmenter(), Segmenter.over_time.__name__):
                return args[0]
            case NearestUpsample(), "__call__":
                return self.enlarge(Resize(name="/".join(module.path), input=args[0].name, factor=2), args[0])
            case BilinearUpsample(), "__call__":
                return self.enlarge(Bilinear(name="/".join(module.path), input=args[0].name), args[0])
        outer, self.path = self.path, module.path
        try:
            return call(*args, **kwargs)
        finally:
            self.path = outer

    def product(self, module: QConv | QDense, x: Spikes | Affine | SymbolicArray) -> Product:
        """A product, to which the layer's bias is added."""
        spikes = isinstance(x, Spikes)
        value: Any = x.counts if spikes else real(x)  # pyright: ignore[reportArgumentType]
        kernel, step_size, bias = (
            module.get_variable("params", name) for name in ("kernel", "step_size", "bias")
        )
        bits = module.numerics.of(module.path).bits
        weight = quantize_by_bits(kernel, step_size, bits)
        scale = rounded(weight.scale * x.step) if spikes else weight.scale
        weights = weight.integers.astype(jnp.float32 if bits == FLOAT_BITS else jnp.int8)
        geometry = ConvGeometry()
        if isinstance(module, QConv):
            groups = value.shape[-1] if module.depthwise else 1
            geometry = ConvGeometry(module.stride, module.padding, groups)
        else:
            weights = weights[None, None]  # A dense layer is a 1x1 convolution.
        name = "/".join(module.path)
        if bits == FLOAT_BITS and not spikes:
            self.floats.append(name)
        pixels = (
            (size + 2 * geometry.padding - taps) // geometry.stride + 1
            for size, taps in zip(value.shape[1:-1], weights.shape, strict=False)
        )
        y = Product(
            values=dataclasses.replace(value, shape=(1, *pixels, weights.shape[-1])),
            scale=scale,
            shift=jnp.zeros_like(scale),
            layer={
                "name": name,
                "input": value.name,
                "spikes": spikes,
                "geometry": geometry,
                "bits": bits,
                "weights": weights,
            },
            finish=self.linear,
        )
        return y if bias is None else y + bias  # pyright: ignore[reportReturnType]

    def linear(self, product: Product) -> SymbolicArray:
        """The step of a product and all that was composed with it."""
        step = Linear(**product.layer, scale=product.scale, shift=product.shift)
        return self.append(step, product.values.shape)

    def fire(self, module: SpikingNeuron, x: Affine | SymbolicArray) -> Spikes:
        gain = module.input_gain
        if isinstance(x, Affine):
            x, gain = (x if gain == 1 else x * gain), 1.0
        value: Any = real(x)  # pyright: ignore[reportArgumentType]
        step = Fire(name="/".join(module.path), input=value.name, input_gain=gain)
        counts: Any = self.append(step, value.shape)
        neuron = module.numerics.neuron
        assert neuron is not None
        return Spikes(counts=counts, step=module.gain * neuron.step, levels=neuron.levels)

    def attend(self, module: QSDSA, q: Spikes, k: Spikes, v: Spikes, _valid: None) -> SymbolicArray:
        counts: list[Any] = [x.counts for x in (q, k, v)]
        names = {name: x.name for name, x in zip("qkv", counts, strict=True)}
        scale = module.scale * (q.step * k.step * v.step)
        step = Attend(name="/".join(module.path), **names, heads=module.num_heads, scale=scale)
        return self.append(step.replace(tokens=module.reference), counts[0].shape)

    def enlarge(self, step: Resize | Bilinear, x: SymbolicArray) -> SymbolicArray:
        """x with twice the pixels along both axes."""
        n, height, width, channels = x.shape
        return self.append(step, (n, 2 * height, 2 * width, channels))

    def add(self, left: SymbolicArray, right: SymbolicArray) -> SymbolicArray:
        """The sum, called after the module that takes it."""
        self.sums[self.path] += 1
        name = "/".join((*self.path, f"residual{self.sums[self.path]}"))
        return self.append(Add(name=name, left=left.name, right=right.name), left.shape)

    def append(self, step: Step, shape: tuple[int, ...]) -> SymbolicArray:
        self.steps.append(step)
        return SymbolicArray(step.name, shape, self.add)
