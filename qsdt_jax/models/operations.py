"""What a network computes, layer by layer: multiply-accumulates, weights, and whether spikes come in.

The counts include the two products of each attention, as the figures quoted for these networks do: 6.47, 14.0
and 24.8 G for S, M and L at 224x224.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import jax
from flax import linen as nn

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.attention import QSDSA
from qsdt_jax.layers.dssa import DSSA
from qsdt_jax.layers.quantized import QConv, QDense
from qsdt_jax.layers.repconv import RepConv
from qsdt_jax.layers.sepconv import SepConv
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.models.backbone import Backbone
from qsdt_jax.models.classifier import Classifier
from qsdt_jax.models.detector import MaskRCNN
from qsdt_jax.models.resformer import SpikingResformer
from qsdt_jax.models.segmenter import Segmenter

Network = Backbone | Classifier | Segmenter | MaskRCNN | SpikingResformer
Kind = Literal["conv", "depthwise", "dense", "attention"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerOperations:
    """The operations of one layer for one image, all time steps together.

    Attributes:
      name: path of the module, e.g. "block3_0/attn/q_repconv/conv1"; the two products of an attention are
        ".../attn/k^T v" and ".../attn/q (k^T v)", those of a DSSA ".../Y1 s^T" and ".../A^T Y2".
      kind: "conv" (1x1 included), "depthwise", "dense", or "attention" for a product of two activations.
      macs: multiply-accumulates, those on zero padding included as usual; a bias or a scale is none.
      weights: number of weights; 0 for attention, and where a layer is called again.
      bits: of a weight; 0 for attention.
      spikes: path of the neuron whose counts come in, so that a MAC is an addition per spike on spike-driven
        hardware; of an attention product that of k, q, s or A. None where real values come in.
      entering: the same, but where real values come in the neuron at the head of the RepConv or SepConv that
        they belong to; None where there is none, as for images.
      inputs: number of activations that come in.
      output_shape: of one time step: (H, W, C), tokens (L, C), heads (h, d, d), or (features,).
    """

    name: str
    kind: Kind
    macs: int
    weights: int
    bits: int
    spikes: str | None
    entering: str | None
    inputs: int
    output_shape: tuple[int, ...]

    @property
    def spike_input(self) -> bool:
        """Whether spike counts come in, against real values."""
        return self.spikes is not None


def layer_operations(model: Network, image_size: tuple[int, int]) -> list[LayerOperations]:
    """The operations of every layer of a network, found by tracing it.

    No array is made: the forward pass is traced with one image, and each quantised layer and attention that
    it calls is recorded, in the order in which they end. A layer that is called again, as the region proposal
    network of a detector at each level, is recorded again. Box head and mask head count for one region.

    Args:
      model: a backbone, a classifier, a segmenter, a detector or a SpikingResformer.
      image_size: (height, width) in pixels, multiples of 16.

    Raises:
      ValueError: the image does not fit the network.
    """
    return list(_layer_operations(cast(Any, model), image_size))  # It is hashable, which its type hides.


@functools.lru_cache(maxsize=4)  # A run asks for those of its network several times.
def _layer_operations(model: Network, image_size: tuple[int, int]) -> tuple[LayerOperations, ...]:
    found: list[LayerOperations] = []
    fired: list[tuple[Spikes, str]] = []  # With the neuron. They are kept, or others would get their ids.

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if context.method_name == "__call__":
            match context.module:
                case SpikingNeuron() if isinstance(y, Spikes):
                    fired.append((y, _name(context.module)))
                case QConv() | QDense():
                    product = _product(context.module, args[0], y, fired, found)
                    again = any(layer.name == product.name for layer in found)
                    found.append(dataclasses.replace(product, weights=0) if again else product)
                case QSDSA():
                    found.extend(_attention(context.module, args[0]))
                case DSSA():
                    found.extend(_dual_attention(context.module, args[0]))
        return y

    base = model if isinstance(model, Backbone | SpikingResformer) else model.backbone
    image = jax.ShapeDtypeStruct((1, *image_size, base.in_channels), base.numerics.real_dtype)
    method = "features" if isinstance(model, Backbone) else "__call__"
    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method=method), image)
    return tuple(found)


def macs_per_image(model: Network, image_size: tuple[int, int]) -> int:
    """Multiply-accumulates of all layers; arguments as for `layer_operations`."""
    return sum(layer.macs for layer in layer_operations(model, image_size))


def _product(
    module: QConv | QDense,
    x: Spikes | Affine | jax.Array,
    y: Affine,
    fired: Sequence[tuple[Spikes, str]],
    before: Sequence[LayerOperations],
) -> LayerOperations:
    """Each weight is used once for every output position of its channel."""
    shape = module.get_variable("params", "kernel").shape
    kind: Kind = "dense" if isinstance(module, QDense) else "depthwise" if module.depthwise else "conv"
    spikes = entering = None
    if isinstance(x, Spikes):
        spikes = entering = next(name for known, name in reversed(fired) if known.counts is x.counts)
    elif isinstance(module.parent, RepConv | SepConv):  # A chain, whose layers run one after the other.
        entering = before[-1].entering
    return LayerOperations(
        name=_name(module),
        kind=kind,
        macs=math.prod(y.shape[:-1]) * math.prod(shape),
        weights=math.prod(shape),
        bits=module.numerics.of(module.path).bits,
        spikes=spikes,
        entering=entering,
        inputs=math.prod(x.counts.shape if isinstance(x, Spikes) else x.shape),
        output_shape=y.shape[1:],
    )


def _attention(module: QSDSA, x: jax.Array) -> list[LayerOperations]:
    """The two products of q, k and v: of each pixel with d x d numbers, with softmax with all tokens."""
    rows, height, width, channels = x.shape
    heads, tokens = module.num_heads, height * width
    d, size = channels // heads, rows * tokens * channels
    squares = (heads, tokens, tokens) if module.attention == "softmax" else (heads, d, d)
    between = rows * math.prod(squares)
    if module.attention == "softmax":
        products = (
            ("q k^T", None, 2 * size, squares),
            ("softmax v", None, size + between, (tokens, channels)),
        )
    else:
        firing = module.numerics.neuron is not None
        k, q = (f"{_name(module)}/{name}_neuron" if firing else None for name in "kq")
        products = (("k^T v", k, 2 * size, squares), ("q (k^T v)", q, size + between, (tokens, channels)))
    macs = rows * tokens * channels * (tokens if module.attention == "softmax" else d)
    return [_of_attention(module, *product, macs) for product in products]


def _dual_attention(module: DSSA, x: jax.Array) -> list[LayerOperations]:
    """The two products of P pooled tokens with all N: Y1 s^T of spikes s, and A^T Y2 of spikes A."""
    rows, height, width, channels = x.shape
    heads, tokens = module.num_heads, height * width
    pooled = (height // module.patch) * (width // module.patch)
    size, real, scores = (rows * n for n in (tokens * channels, pooled * channels, heads * pooled * tokens))
    macs = rows * pooled * tokens * channels
    s, a = f"{_name(module)}/neuron", f"{_name(module)}/attn_neuron"
    return [
        _of_attention(module, "Y1 s^T", s, size + real, (heads, pooled, tokens), macs),
        _of_attention(module, "A^T Y2", a, scores + real, (tokens, channels), macs),
    ]


def _of_attention(
    module: nn.Module, product: str, spikes: str | None, inputs: int, shape: tuple[int, ...], macs: int
) -> LayerOperations:
    return LayerOperations(
        name=f"{_name(module)}/{product}",
        kind="attention",
        macs=macs,
        weights=0,
        bits=0,
        spikes=spikes,
        entering=spikes,
        inputs=inputs,
        output_shape=shape,
    )


def _name(module: nn.Module) -> str:
    return "/".join(module.path)
