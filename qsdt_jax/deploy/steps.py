"""Steps of a program, told by the network itself: what stands in the place of arrays while it is run."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from qsdt_jax.core.affine import Affine, real
from qsdt_jax.core.exact import rounded
from qsdt_jax.core.lsq import quantize_by_bits
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.deploy.program import (
    Add,
    Attend,
    Bilinear,
    DepthToSpace,
    Fire,
    Linear,
    Pool,
    Resize,
    Step,
    Subsample,
)
from qsdt_jax.errors import UserError
from qsdt_jax.layers import downsample, transposed_conv
from qsdt_jax.layers.attention import QSDSA
from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.quantized import QConv, QDense
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.upsample import BilinearUpsample, NearestUpsample
from qsdt_jax.models import Backbone, Classifier, Segmenter


@dataclasses.dataclass(frozen=True)
class SymbolicArray:
    """The result of a step, in the place of an array.

    Attributes:
      name: of the step.
      shape: that the network sees, for one frame; it may differ from the step's own.
      pixels: height and width of the step's own.
      plus: appends the step that adds two of them, and returns its result.
    """

    name: str
    shape: tuple[int, ...]
    pixels: tuple[int, int]
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
        pixels = height + 2 * border, width + 2 * border
        values = dataclasses.replace(self.values, shape=(n, *pixels, channels), pixels=pixels)
        return self.replace(layer={**self.layer, "geometry": geometry}, values=values)


class Folding:
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
                return self.append(Pool(name="pool", input=args[0].name), args[0].shape[::3], (1, 1))
            case (Classifier(), Classifier.over_time.__name__) | (Segmenter(), Segmenter.over_time.__name__):
                return args[0]
            case NearestUpsample(), "__call__":
                return self.enlarge(Resize(name="/".join(module.path), input=args[0].name, factor=2), args[0])
            case BilinearUpsample(), "__call__":
                return self.enlarge(Bilinear(name="/".join(module.path), input=args[0].name), args[0])
            case transposed_conv.DepthToSpace(), "__call__":
                step = DepthToSpace(name="/".join(module.path), input=args[0].name)
                return self.enlarge(step, args[0], args[0].shape[-1] // 4)
            case downsample.Subsample(), "__call__":
                n, height, width, channels = args[0].shape
                step = Subsample(name="/".join(module.path), input=args[0].name)
                return self.append(step, (n, -(-height // 2), -(-width // 2), channels))
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
            groups = value.shape[-1] if module.depthwise else module.groups
            geometry = ConvGeometry(module.stride, module.padding, groups)
        else:
            # A dense layer is a convolution with one position: of one pixel, or of a map that was flattened.
            weights = weights.reshape(*value.pixels, -1, weights.shape[-1])
        name = "/".join(module.path)
        if bits == FLOAT_BITS and not spikes:
            self.floats.append(name)
        height, width = (
            (size + 2 * geometry.padding - taps) // geometry.stride + 1
            for size, taps in zip(value.pixels, weights.shape, strict=False)
        )
        pixels = (height, width) if isinstance(module, QConv) else ()
        y = Product(
            values=dataclasses.replace(value, shape=(1, *pixels, weights.shape[-1]), pixels=(height, width)),
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
        return self.append(step, product.values.shape, product.values.pixels)

    def fire(self, module: SpikingNeuron, x: Affine | SymbolicArray) -> Spikes:
        gain = module.input_gain
        if isinstance(x, Affine):
            x, gain = (x if gain == 1 else x * gain), 1.0
        value: Any = real(x)  # pyright: ignore[reportArgumentType]
        step = Fire(name="/".join(module.path), input=value.name, input_gain=gain)
        counts: Any = self.append(step, value.shape, value.pixels)
        neuron = module.numerics.neuron
        assert neuron is not None
        if module.threshold is not None:
            raise UserError(
                f"{step.name} has a threshold of its own ({module.threshold}); expected a network whose "
                "neurons are all alike, since a bundle has one neuron"
            )
        return Spikes(counts=counts, step=module.gain * neuron.step, levels=neuron.levels)

    def attend(self, module: QSDSA, q: Spikes, k: Spikes, v: Spikes, _valid: None) -> SymbolicArray:
        counts: list[Any] = [x.counts for x in (q, k, v)]
        names = {name: x.name for name, x in zip("qkv", counts, strict=True)}
        scale = module.scale * (q.step * k.step * v.step)
        step = Attend(name="/".join(module.path), **names, heads=module.num_heads, scale=scale)
        return self.append(step.replace(tokens=module.reference), counts[0].shape)

    def enlarge(
        self, step: Resize | Bilinear | DepthToSpace, x: SymbolicArray, channels: int | None = None
    ) -> SymbolicArray:
        """x with twice the pixels along both axes, and as many channels unless given."""
        n, height, width, own = x.shape
        return self.append(step, (n, 2 * height, 2 * width, channels or own))

    def add(self, left: SymbolicArray, right: SymbolicArray) -> SymbolicArray:
        """The sum, called after the module that takes it."""
        self.sums[self.path] += 1
        name = "/".join((*self.path, f"residual{self.sums[self.path]}"))
        step = Add(name=name, left=left.name, right=right.name)
        return self.append(step, left.shape, left.pixels)

    def append(
        self, step: Step, shape: tuple[int, ...], pixels: tuple[int, int] | None = None
    ) -> SymbolicArray:
        """A step whose result the network sees with that shape; `pixels`, where these are not in it."""
        self.steps.append(step)
        return SymbolicArray(step.name, shape, pixels or (shape[1], shape[2]), self.add)
