"""A network that cannot be folded, as it is trained: its layers and its spikes, for the same report."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict

from qsdt_jax.core.neurons import Neuron
from qsdt_jax.deploy.agreement import firing_order
from qsdt_jax.energy.layer import Layer
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.models import Classifier, SpikingResformer
from qsdt_jax.models.operations import layer_operations


def is_spiking(model: Any) -> TypeGuard[Classifier | SpikingResformer]:
    """Whether a network is a classifier with spiking neurons and attention of spikes."""
    if isinstance(model, Classifier):
        return model.backbone.numerics.neuron is not None and model.backbone.attention == "spiking"
    return isinstance(model, SpikingResformer)


class Unfolded(struct.PyTreeNode):
    """A classifier with spiking neurons in evaluation; for reports what a folded program is.

    Attributes:
      model: for which `is_spiking`.
      variables: "params" and "batch_stats" of it.
      image_size: (height, width) of its images in pixels.
    """

    model: Classifier | SpikingResformer = struct.field(pytree_node=False)
    variables: Mapping[str, Any]
    image_size: tuple[int, int] = struct.field(pytree_node=False)

    @property
    def neuron(self) -> Neuron:
        """That of all layers, thresholds of their own aside."""
        base = self.model if isinstance(self.model, SpikingResformer) else self.model.backbone
        neuron = base.numerics.neuron
        assert neuron is not None
        return neuron

    @property
    def bits(self) -> tuple[int, ...]:
        """The numbers of weight bits that its layers have."""
        layers = layer_operations(self.model, self.image_size)
        return tuple(sorted({layer.bits for layer in layers if layer.weights}))

    def layers(self) -> list[Layer]:
        """Its layers, attention products behind the convolutions of their block."""
        found, height, timesteps = [], self.image_size[0], self.neuron.timesteps
        rows = height  # Of the map that the present block has.
        for layer in layer_operations(self.model, self.image_size):
            if layer.kind != "attention":
                rows = layer.output_shape[0] if layer.kind != "dense" else 1
            found.append(
                Layer(
                    name=layer.name,
                    kind="conv" if layer.kind == "dense" else layer.kind,
                    macs=layer.macs,
                    weights=layer.weights,
                    bits=layer.bits,
                    inputs=layer.inputs,
                    outputs=timesteps * math.prod(layer.output_shape),
                    stride=max(1, height // rows),
                    spikes=layer.spikes,
                    entering=layer.entering,
                )
            )
        return found

    def neurons(self) -> list[str]:
        """Their names in the order in which they fire."""
        base = self.model if isinstance(self.model, SpikingResformer) else self.model.backbone
        image = jax.ShapeDtypeStruct((1, *self.image_size, base.in_channels), jnp.float32)
        return firing_order(self.model, self.variables, image)

    def spikes(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits (B, K), and the counts of each neuron (B * T, ...)."""
        logits, state = self.model.apply(
            self.variables,
            images,
            capture_intermediates=lambda module, _: isinstance(module, SpikingNeuron),
            mutable=["intermediates"],
        )
        fired: Any = flatten_dict(state["intermediates"])
        return logits, {"/".join(path[:-1]): found[0].counts for path, found in fired.items()}
