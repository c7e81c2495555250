"""What a network computes, layer by layer: multiply-accumulates, weights, and whether spikes come in.

The counts include the two products of each attention, as the figures quoted for these networks do: 6.47, 14.0
and 24.8 G for S, M and L at 224x224.
"""

import dataclasses
import functools
import math
from typing import Any, Literal, cast

import jax
from flax import linen as nn

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.attention import QSDSA
from qsdt_jax.layers.quantized import QConv, QDense
from qsdt_jax.models.backbone import Backbone
from qsdt_jax.models.classifier import Classifier
from qsdt_jax.models.detector import MaskRCNN
from qsdt_jax.models.segmenter import Segmenter

Kind = Literal["conv", "depthwise", "dense", "attention"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerOperations:
    """The operations of one layer for one image, all time steps together.

    Attributes:
      name: path of the module, e.g. "block3_0/attn/q_repconv/conv1"; the two products of an attention are
        ".../attn/k^T v" and ".../attn/q (k^T v)".
      kind: "conv" (1x1 included), "depthwise", "dense", or "attention" for a product of two activations.
      macs: multiply-accumulates, those on zero padding included as usual; a bias or a scale is none.
      weights: number of weights; 0 for attention, and where a layer is called again.
      bits: of a weight; 0 for attention.
      spike_input: whether spike counts come in, so that a MAC is an addition per spike on spike-driven
        hardware, against real values.
      output_shape: of one time step: (H, W, C), tokens (L, C), heads (h, d, d), or (features,).
    """

    name: str
    kind: Kind
    macs: int
    weights: int
    bits: int
    spike_input: bool
    output_shape: tuple[int, ...]


def layer_operations(
    model: Backbone | Classifier | Segmenter | MaskRCNN, image_size: tuple[int, int]
) -> list[LayerOperations]:
    """The operations of every layer of a network, found by tracing it.

    No array is made: the forward pass is traced with one image, and each quantised layer and attention that
    it calls is recorded, in the order in which they end. A layer that is called again, as the region proposal
    network of a detector at each level, is recorded again. Box head and mask head count for one region.

    Args:
      model: a backbone, a classifier, a segmenter or a detector.
      image_size: (height, width) in pixels, multiples of 16.

    Raises:
      ValueError: the image does not fit the network.
    """
    return list(_layer_operations(cast(Any, model), image_size))  # It is hashable, which its type hides.


@functools.lru_cache(maxsize=4)  # A run asks for those of its network several times.
def _layer_operations(
    model: Backbone | Classifier | Segmenter | MaskRCNN, image_size: tuple[int, int]
) -> tuple[LayerOperations, ...]:
    found: list[LayerOperations] = []

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if context.method_name == "__call__":
            if isinstance(context.module, QConv | QDense):
                product = _product(context.module, args[0], y)
                again = any(layer.name == product.name for layer in found)
                found.append(dataclasses.replace(product, weights=0) if again else product)
            elif isinstance(context.module, QSDSA):
                found.extend(_attention(context.module, args[0]))
        return y

    backbone = model if isinstance(model, Backbone) else model.backbone
    image = jax.ShapeDtypeStruct((1, *image_size, backbone.in_channels), backbone.numerics.real_dtype)
    method = "features" if model is backbone else "__call__"
    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method=method), image)
    return tuple(found)


def macs_per_image(model: Backbone | Classifier | Segmenter | MaskRCNN, image_size: tuple[int, int]) -> int:
    """Multiply-accumulates of all layers; arguments as for `layer_operations`."""
    return sum(layer.macs for layer in layer_operations(model, image_size))


def _product(module: QConv | QDense, x: Spikes | Affine | jax.Array, y: Affine) -> LayerOperations:
    """Each weight is used once for every output position of its channel."""
    shape = module.get_variable("params", "kernel").shape
    kind: Kind = "dense" if isinstance(module, QDense) else "depthwise" if module.depthwise else "conv"
    return LayerOperations(
        name=_name(module),
        kind=kind,
        macs=math.prod(y.shape[:-1]) * math.prod(shape),
        weights=math.prod(shape),
        bits=module.numerics.of(module.path).bits,
        spike_input=isinstance(x, Spikes),
        output_shape=y.shape[1:],
    )


def _attention(module: QSDSA, x: jax.Array) -> list[LayerOperations]:
    """The two products of q, k and v: of each pixel with d x d numbers, with softmax with all tokens."""
    rows, height, width, channels = x.shape
    heads, tokens = module.num_heads, height * width
    d = channels // heads
    softmax = module.attention == "softmax"
    if softmax:
        products = {"q k^T": (heads, tokens, tokens), "softmax v": (tokens, channels)}
    else:
        products = {"k^T v": (heads, d, d), "q (k^T v)": (tokens, channels)}
    return [
        LayerOperations(
            name=f"{_name(module)}/{product}",
            kind="attention",
            macs=rows * tokens * channels * (tokens if softmax else d),
            weights=0,
            bits=0,
            spike_input=module.numerics.neuron is not None and not softmax,
            output_shape=output_shape,
        )
        for product, output_shape in products.items()
    ]


def _name(module: nn.Module) -> str:
    return "/".join(module.path)
