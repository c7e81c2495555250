"""Networks with drawn variables through which spikes flow."""

import functools
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from qsdt_jax.deploy import interpreter
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.program import Program
from qsdt_jax.layers.bits_rules import bits_of
from qsdt_jax.layers.downsample import Downsample
from qsdt_jax.layers.sepconv import ConvBlock
from qsdt_jax.layers.transformer_block import TransformerBlock
from qsdt_jax.models import Backbone, Classifier, MaskRCNN, QSDTransformer, Segmenter
from qsdt_jax.models.backbone import Stage
from qsdt_jax.models.shapes import variable_shapes

TINY: dict[str, Any] = {
    "channels": (8, 8, 16, 24),
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2,
    "num_classes": 10,
}

RANGES = {"var": (0.5, 1.5), "scale": (0.5, 1.5), "layer_scale1": (0.1, 1), "layer_scale2": (0.1, 1)}


def tiny_net(**overrides) -> Classifier:
    return QSDTransformer(**{**TINY, **overrides})


class ShortBackbone(Backbone):
    """One block of each kind, so each kind of layer: for tests of what is in a layer, not of how many."""

    def setup(self):
        numerics, ratio = self.numerics, self.mlp_ratio
        c1, c2, c3, c4 = self.channels
        self.downsample1_1 = Downsample(c1 // 2, numerics, kernel_size=7, padding=3, spiking=False)
        self.conv_block1_1 = ConvBlock(numerics, ratio)
        self.downsample1_2 = Downsample(c1, numerics)
        self.downsample2 = Downsample(c2, numerics)
        self.downsample3 = Downsample(c3, numerics)
        self.block3 = [
            TransformerBlock(
                numerics,
                self.num_heads,
                ratio,
                self.attention,
                self.attention_scale,
                self.rectify,
                self.layer_scale_init,
                attention_tokens=self.attention_tokens,
                attention_gain=self.attention_gain,
                attention_threshold=self.attention_threshold,
                layer_scale=self.layer_scale,
                qkv_bias_init=self.qkv_bias_init,
            )
        ]
        self.downsample4 = Downsample(c4, numerics, stride=1)

    def features(
        self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> dict[Stage, jax.Array]:
        """See `Backbone.features`."""
        x = self.frames(images)
        valid = None if sizes is None else self._valid(sizes, x.shape[1:3])
        stem = self.conv_block1_1(self.downsample1_1(x, train), train)
        stage1 = self.downsample1_2(stem, train)
        stage2 = self.downsample2(stage1, train)
        stage3 = self.block3[0](self.downsample3(stage2, train), train, valid)
        stage4 = self.downsample4(stage3, train)
        return {"stem": stem, "stage1": stage1, "stage2": stage2, "stage3": stage3, "stage4": stage4}


def short_net(num_classes: int = 10, distillation_head: bool = False, **overrides) -> Classifier:
    """`tiny_net` with the short backbone."""
    fields = {name: value for name, value in TINY.items() if name != "num_classes"}
    return Classifier(ShortBackbone(**{**fields, **overrides}), num_classes, distillation_head)


def tiny_segmenter(neuron_input_gain: float = 1.0, **backbone) -> Segmenter:
    fields = {"channels": (4, 4, 8, 8), "depth": 2, "num_heads": 2, "mlp_ratio": 1, **backbone}
    return Segmenter(Backbone(**fields), num_classes=5, fpn_channels=6, neuron_input_gain=neuron_input_gain)


def tiny_detector(
    neuron_input_gain: float = 1.0, final_neuron: bool = True, geometry: Any = "true", **backbone
) -> MaskRCNN:
    fields = {"channels": (4, 4, 8, 8), "depth": 2, "num_heads": 2, "mlp_ratio": 1, **backbone}
    return MaskRCNN(
        Backbone(**fields),
        num_classes=2,
        fpn_channels=6,
        box_features=8,
        anchor_scale=4.0,
        neuron_input_gain=neuron_input_gain,
        final_neuron=final_neuron,
        geometry=geometry,
    )


def draw_variables(model: Classifier | Segmenter | MaskRCNN, seed: int = 23) -> dict:
    """Variables of the size of trained ones; no two entries alike, so that a mix-up shows."""
    generator = np.random.default_rng(seed)
    shapes = flatten_dict(variable_shapes(model))

    def draw(path: tuple[str, ...]) -> np.ndarray:
        *layer, name = path
        shape = shapes[path].shape
        if name not in ("kernel", "step_size"):
            return generator.uniform(*RANGES.get(name, (-0.5, 0.5)), shape)
        std = np.sqrt(2 / np.prod(shapes[(*layer, "kernel")].shape[:-1]))
        if name == "kernel":
            return generator.normal(0, std, shape)
        backbone = model.backbone
        largest = 2 ** (bits_of("/".join(layer[1:]), backbone.bits_rules, backbone.bits) - 1)
        return generator.uniform(2, 3, shape) * std / largest  # A few weights are clipped.

    return unflatten_dict({path: draw(path).astype(leaf.dtype) for path, leaf in shapes.items()})


def draw_images(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def differing_counts(counts: dict[str, Any], values: dict[str, Any]) -> dict[str, int]:
    """Number of counts of each neuron that are not equal, of the neurons where there are any."""
    different = {
        name: int(np.sum(np.asarray(expected).reshape(-1) != np.asarray(values[name]).reshape(-1)))
        for name, expected in counts.items()
    }
    return {name: number for name, number in different.items() if number}


INTEGER = IntegerArithmetic()  # One object, which is one key of what is compiled.


@functools.partial(jax.jit, static_argnames="arithmetic")
def deployed_form(
    program: Program, images: jax.Array, arithmetic: interpreter.Arithmetic
) -> tuple[interpreter.Values, jax.Array]:
    """All values and the logits; tests of one network and of equal shapes share what is compiled."""
    values = interpreter.interpret(program, images, arithmetic)
    return values, interpreter.class_scores(program, values)
