"""A folded network as plain data: a straight line of steps on named values.

This is what is deployed. Weights are integers, or float where spikes select them; everything real between a
product and the next neuron is one scale and one shift per channel, and nine kinds of steps are all there is.
The integer form and the spike-driven form interpret the same program, and so does any reader of a bundle.

The first value is the images, frame by frame (B * T, H, W, C). An output is a value averaged over the T time
steps. A network may have several parts, as a detector has: what comes into a part may be features, and a
value that the next part takes is taken step by step. The class scores are called "logits": one pixel of them,
(B, 1, 1, K), are those of an image, more are those of its pixels. Images may be padded, each from its own
height and width on; then only tokens inside of them attend. Names of layers are those of the modules in
`models`, such as "block3_0/attn/q_repconv/conv1".
"""

import jax
import numpy as np
from flax import struct

from qsdt_jax.core.neurons import Neuron
from qsdt_jax.layers.lowering import ConvGeometry

Array = np.ndarray | jax.Array

IMAGES = "images"
LOGITS = "logits"


class Linear(struct.PyTreeNode):
    """conv(input, weights) * scale + shift: a convolution or dense layer with all that was folded into it.

    With spikes as its input the product is made of additions only, slot by slot: a whole number, or a sum of
    float weights in digits (`layers.product.exact_selection`). With a real input it is made of
    multiply-accumulates, in digits as well (`layers.product.exact_convolution`).

    Attributes:
      name, input: of the result, of the value that comes in.
      spikes: whether spike counts come in.
      geometry: stride, padding and groups. The padding of spikes is silence, that of real values zero.
      bits: of a weight, 1 to 8; 32 for float weights, which take spikes.
      weights: (kh, kw, I / groups, O) int8, or float32.
      scale, shift: (O,) float32.
    """

    name: str = struct.field(pytree_node=False)
    input: str = struct.field(pytree_node=False)
    spikes: bool = struct.field(pytree_node=False)
    geometry: ConvGeometry = struct.field(pytree_node=False)
    bits: int = struct.field(pytree_node=False)
    weights: Array
    scale: Array
    shift: Array


class Fire(struct.PyTreeNode):
    """Spike counts of the program's neuron for a real input current times `input_gain`."""

    name: str = struct.field(pytree_node=False)
    input: str = struct.field(pytree_node=False)
    input_gain: float = struct.field(pytree_node=False, default=1.0)


class Attend(struct.PyTreeNode):
    """scale * q (k^T v) for each head, on counts; k of tokens in the padding counts as silent.

    Attributes:
      name: of the result.
      q, k, v: names of counts (N, H, W, C).
      heads: that share the channels evenly.
      scale: of the whole numbers, steps of the spikes included.
      tokens: N0; the scale of an image of N tokens is multiplied by N0 / N. With 0 it is as it is.
    """

    name: str = struct.field(pytree_node=False)
    q: str = struct.field(pytree_node=False)
    k: str = struct.field(pytree_node=False)
    v: str = struct.field(pytree_node=False)
    heads: int = struct.field(pytree_node=False)
    scale: float = struct.field(pytree_node=False)
    tokens: int = struct.field(pytree_node=False, default=0)


class Add(struct.PyTreeNode):
    """left + right, real values of one shape: the membrane shortcut, or the sum of two maps."""

    name: str = struct.field(pytree_node=False)
    left: str = struct.field(pytree_node=False)
    right: str = struct.field(pytree_node=False)


class Pool(struct.PyTreeNode):
    """Mean over the pixels, (N, H, W, C) -> (N, 1, 1, C)."""

    name: str = struct.field(pytree_node=False)
    input: str = struct.field(pytree_node=False)


class Resize(struct.PyTreeNode):
    """Nearest neighbours: each pixel `factor` times along both axes, (N, H, W, C) -> (N, f H, f W, C).

    Attributes:
      name, input: of the result, of the real values that come in.
      factor: a whole number.
    """

    name: str = struct.field(pytree_node=False)
    input: str = struct.field(pytree_node=False)
    factor: int = struct.field(pytree_node=False)


class Bilinear(struct.PyTreeNode):
    """Twice the pixels along both axes, interpolated: `layers.upsample.bilinear_upsample` of real values."""

    name: str = struct.field(pytree_node=False)
    input: str = struct.field(pytree_node=False)


class DepthToSpace(struct.PyTreeNode):
    """Four parts of the channels become four pixels, (N, H, W, 4 C) -> (N, 2 H, 2 W, C).

    Part i * 2 + j is at row i and column j of the four: `layers.transposed_conv.depth_to_space`.
    """

    name: str = struct.field(pytree_node=False)
    input: str = struct.field(pytree_node=False)


class Subsample(struct.PyTreeNode):
    """Every second pixel along both axes, from the first on, of real values; sizes are rounded up."""

    name: str = struct.field(pytree_node=False)
    input: str = struct.field(pytree_node=False)


Step = Linear | Fire | Attend | Add | Pool | Resize | Bilinear | DepthToSpace | Subsample


def inputs_of(step: Step) -> tuple[str, ...]:
    """Names of the values that a step reads."""
    match step:
        case Attend():
            return step.q, step.k, step.v
        case Add():
            return step.left, step.right
        case _:
            return (step.input,)


class Program(struct.PyTreeNode):
    """A folded network.

    Attributes:
      steps: in the order in which they run; each uses results of steps before it, or the images.
      neuron: of every `Fire`.
      outputs: pairs of a name and of the value, real, whose mean over the time steps it is.
    """

    steps: tuple[Step, ...]
    neuron: Neuron = struct.field(pytree_node=False)
    outputs: tuple[tuple[str, str], ...] = struct.field(pytree_node=False)

    @property
    def layers(self) -> list[Linear]:
        return [step for step in self.steps if isinstance(step, Linear)]

    @property
    def bits(self) -> tuple[int, ...]:
        """The numbers of weight bits that its layers have, each once and ascending."""
        return tuple(sorted({layer.bits for layer in self.layers}))

    @property
    def in_channels(self) -> int:
        """Channels of the images; the first layer has no groups."""
        return self.layers[0].weights.shape[2]

    @property
    def num_classes(self) -> int:
        """Channels of the logits."""
        return self.channels_of(LOGITS)

    def channels_of(self, output: str) -> int:
        """Channels of an output, of which no `DepthToSpace` follows its last layer."""
        steps, name = {step.name: step for step in self.steps}, dict(self.outputs)[output]
        while name != IMAGES:
            if isinstance(step := steps[name], Linear):
                return step.weights.shape[3]
            name = inputs_of(step)[0]  # All other steps keep the channels.
        return self.in_channels
