"""Folding: the variables of a trained classifier -> a program of integers, scales and shifts.

Each scale and shift is composed by the functions that evaluation uses (`core.affine`, `layers.batch_norm`),
in the same order, one rounded operation at a time. So the folded network gives the bits of the evaluated one.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from qsdt_jax.core.affine import Affine
from qsdt_jax.core.exact import rounded
from qsdt_jax.core.lsq import quantize_by_bits
from qsdt_jax.deploy.program import IMAGES, Add, Attend, Fire, Linear, Pool, Program, Step
from qsdt_jax.deploy.validity import check_counts, check_sums
from qsdt_jax.errors import UserError
from qsdt_jax.layers.attention import ATTENTION_GAIN
from qsdt_jax.layers.batch_norm import normalize_by_running
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.models import Classifier


def fold(model: Classifier, variables: Mapping[str, Any]) -> Program:
    """The program of a classifier.

    Args:
      model: with 1 to 8 weight bits.
      variables: "params" and "batch_stats" of it, in any float type; the program is float32.

    Raises:
      UserError: the weights are float or of mixed bits, there are no spikes or they do not attend, or counts
        or sums are too large for int8 and float32.
    """
    backbone = model.backbone
    if backbone.bits == 32:
        raise UserError(
            "the network has float weights (bits=32), so there are no integers to export; "
            "expected a network trained with 1 to 8 bits"
        )
    neuron = backbone.numerics.neuron
    if neuron is None or backbone.attention != "spiking" or backbone.bits_rules:
        raise UserError(
            "only networks with spiking neurons, spiking attention and the same bits in all layers can be "
            f"exported; found neuron={backbone.neuron}, attention={backbone.attention}, "
            f"bits_rules={backbone.bits_rules}"
        )
    check_counts(backbone.levels)
    # Quotients and square roots are rounded correctly on a CPU, and not everywhere else.
    with on_the_cpu():
        folding = _Folding(model, neuron.step, variables)
        folding.classifier()
    return Program(steps=tuple(folding.steps), neuron=neuron, bits=backbone.bits)


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


class _Folding:
    """Walks through the network as its modules do, and appends a step for each operation."""

    def __init__(self, model: Classifier, step_size: float, variables: Mapping[str, Any]):
        self.model, self.backbone = model, model.backbone
        self.step_size = step_size
        self.steps: list[Step] = []
        flat = flatten_dict(jax.device_get(dict(variables)), sep="/")
        self.left = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in flat.items()}

    def classifier(self) -> None:
        model = self.model
        x = self.downsample("downsample1_1", IMAGES, ConvGeometry(2, 3), spikes=False)
        x = self.conv_block("conv_block1_1", x)
        x = self.downsample("downsample1_2", x, ConvGeometry(2, 1))
        x = self.conv_block("conv_block1_2", x)
        x = self.downsample("downsample2", x, ConvGeometry(2, 1))
        x = self.conv_block("conv_block2_2", self.conv_block("conv_block2_1", x))
        x = self.downsample("downsample3", x, ConvGeometry(2, 1))
        in_stage3, in_stage4 = self.backbone.stage_depths
        for i in range(in_stage3):
            x = self.transformer_block(f"block3_{i}", x)
        x = self.downsample("downsample4", x, ConvGeometry(1, 1))
        for i in range(in_stage4):
            x = self.transformer_block(f"block4_{i}", x)
        x = self.add(Pool(name="pool", input=x))
        spikes = self.fire("head_neuron", x)
        if model.distillation_head:
            halves = (self.linear(name, spikes, factor=0.5) for name in ("head", "head_dist"))
            self.residual("logits", *halves)
        else:
            self.linear("head", spikes)
        if self.left:
            raise ValueError(f"folding has no place for {', '.join(self.left)}")

    def downsample(self, path: str, x: str, geometry: ConvGeometry, *, spikes: bool = True) -> str:
        inputs = self.fire(f"{path}/neuron", x) if spikes else x
        return self.linear(f"{path}/conv", inputs, geometry, norms=[f"{path}/bn"], spikes=spikes)

    def conv_block(self, path: str, x: str) -> str:
        x = self.residual(f"{path}/residual1", x, self.sepconv(f"{path}/sepconv", x))
        y = x
        for i in (1, 2):
            spikes = self.fire(f"{path}/neuron{i}", y)
            y = self.linear(f"{path}/conv{i}", spikes, ConvGeometry(1, 1), norms=[f"{path}/bn{i}"])
        return self.residual(f"{path}/residual2", x, y)

    def sepconv(self, path: str, x: str) -> str:
        y = self.linear(f"{path}/pwconv1", self.fire(f"{path}/neuron1", x), norms=[f"{path}/bn1"])
        y = self.depthwise(f"{path}/dwconv", self.fire(f"{path}/neuron2", y), padding=3)
        return self.linear(f"{path}/pwconv2", y, norms=[f"{path}/bn2"], spikes=False)

    def transformer_block(self, path: str, x: str) -> str:
        y = self.attention(f"{path}/attn", x, layer_scale=f"{path}/layer_scale1")
        x = self.residual(f"{path}/residual1", x, y)
        y = self.mlp(f"{path}/mlp", x, layer_scale=f"{path}/layer_scale2")
        return self.residual(f"{path}/residual2", x, y)

    def attention(self, path: str, x: str, layer_scale: str) -> str:
        backbone, spikes = self.backbone, self.fire(f"{path}/neuron", x)
        q, k, v = (self._projection(f"{path}/{name}", spikes) for name in "qkv")
        scale = backbone.attention_scale * self.step_size * self.step_size * self.step_size
        y = self.add(Attend(name=path, q=q, k=k, v=v, heads=backbone.num_heads, scale=scale))
        y = self.fire(f"{path}/attn_neuron", y)
        step = ATTENTION_GAIN * self.step_size
        return self.repconv(f"{path}/proj", y, [f"{path}/proj_bn"], step=step, layer_scale=layer_scale)

    def _projection(self, path: str, spikes: str) -> str:
        norms = [f"{path}_bn"] + ([f"{path}_rectify/norm"] if self.backbone.rectify == "norm" else [])
        return self.fire(f"{path}_neuron", self.repconv(path, spikes, norms))

    def repconv(
        self,
        path: str,
        spikes: str,
        norms: list[str],
        *,
        step: float | None = None,
        layer_scale: str | None = None,
    ) -> str:
        """The border is what the batch norm gives to a product of zero, so padding the spikes makes it."""
        path = f"{path}_repconv"
        y = self.linear(f"{path}/conv1", spikes, ConvGeometry(1, 1), norms=[f"{path}/bn1"], step=step)
        y = self.depthwise(f"{path}/dwconv", y, spikes=False)
        norms = [f"{path}/bn2", *norms]
        return self.linear(f"{path}/conv2", y, norms=norms, spikes=False, layer_scale=layer_scale)

    def mlp(self, path: str, x: str, layer_scale: str) -> str:
        y = self.linear(f"{path}/fc1", self.fire(f"{path}/neuron1", x), norms=[f"{path}/bn1"])
        y = self.fire(f"{path}/neuron2", y)
        return self.linear(f"{path}/fc2", y, norms=[f"{path}/bn2"], layer_scale=layer_scale)

    def fire(self, name: str, x: str) -> str:
        return self.add(Fire(name=name, input=x))

    def residual(self, name: str, x: str, branch: str) -> str:
        return self.add(Add(name=name, left=x, right=branch))

    def depthwise(self, name: str, x: str, *, padding: int = 0, spikes: bool = True) -> str:
        channels = self.left[f"params/{name}/kernel"].shape[-1]
        return self.linear(name, x, ConvGeometry(1, padding, channels), spikes=spikes)

    def linear(
        self,
        name: str,
        x: str,
        geometry: ConvGeometry = ConvGeometry(),  # noqa: B008 (frozen)
        *,
        spikes: bool = True,
        step: float | None = None,
        norms: list[str] = [],  # noqa: B006 (read only)
        layer_scale: str | None = None,
        factor: float = 1.0,
    ) -> str:
        """A product and what follows it up to the next neuron, sum or product.

        Args:
          name: of the layer.
          x: name of its input.
          geometry: of the convolution.
          spikes: whether the input is spikes.
          step: value of one spike; None for that of the neuron.
          norms: batch norms that follow.
          layer_scale: parameter that follows them.
          factor: that follows it, a power of two.
        """
        kernel, step_size = self.take(f"params/{name}/kernel"), self.find(f"params/{name}/step_size")
        weight = quantize_by_bits(kernel, step_size, self.backbone.bits)
        scale = weight.scale
        if spikes:
            scale = rounded(scale * (self.step_size if step is None else step))
        y = Affine(values=None, scale=scale, shift=jnp.zeros_like(scale))
        bias = self.find(f"params/{name}/bias")
        y = y if bias is None else y + bias
        for norm in norms:
            y = self.normalize(y, norm)
        if layer_scale is not None:
            y = y * self.take(f"params/{layer_scale}")
        y = y * jnp.float32(factor)
        weights = np.asarray(weight.integers, np.int8)
        if weights.ndim == 2:  # A dense layer is a 1x1 convolution.
            weights = weights[None, None]
        if spikes:
            check_sums(name, weights, self.backbone.levels)
        linear = Linear(
            name=name,
            input=x,
            spikes=spikes,
            geometry=geometry,
            weights=weights,
            scale=np.asarray(y.scale),
            shift=np.asarray(y.shift),
        )
        return self.add(linear)

    def normalize(self, y: Affine, path: str) -> Affine:
        vectors = [self.take(f"params/{path}/{name}") for name in ("scale", "bias")]
        vectors += [self.take(f"batch_stats/{path}/{name}") for name in ("mean", "var")]
        channels = y.scale.shape[0]
        return normalize_by_running(y, *(jnp.repeat(v, channels // v.shape[0]) for v in vectors))

    def take(self, name: str) -> jax.Array:
        """A variable, which is thereby used up."""
        return self.left.pop(name)

    def find(self, name: str) -> jax.Array | None:
        """A variable, which is thereby used up, or None where there is none."""
        return self.left.pop(name, None)

    def add(self, step: Step) -> str:
        self.steps.append(step)
        return step.name
