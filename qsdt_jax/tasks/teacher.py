"""Networks that teach: from a batch to logits and to the q, k and v of every attention block."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from qsdt_jax.core.spikes import values_of
from qsdt_jax.losses.fgd import Projections
from qsdt_jax.models import Classifier
from qsdt_jax.models.backbone import STRIDE
from qsdt_jax.models.caformer import HEAD_WIDTH, MIXERS, CAFormer
from qsdt_jax.tasks.task import Variables


class Teacher(Protocol):
    """A network in evaluation mode; equal ones share a compiled step."""

    def __call__(self, variables: Variables, images: jax.Array) -> tuple[jax.Array, list[Projections]]:
        """Logits (B, K), and the blocks first to last, of images as the student sees them."""
        ...

    def __hash__(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class OwnTeacher:
    """A network of this project, trained on the same inputs as the student."""

    model: Classifier

    def __call__(self, variables: Variables, images: jax.Array) -> tuple[jax.Array, list[Projections]]:
        """See `Teacher`."""
        logits, captured = self.model.apply(
            variables, images, mutable=["intermediates"], capture_intermediates=is_projection
        )
        return logits, projections(self.model, captured["intermediates"], images)


@dataclasses.dataclass(frozen=True)
class CAFormerTeacher:
    """A CAFormer, whose inputs may be normalised otherwise than the student's.

    Attributes:
      model: the network.
      scale, shift: (C,) of each channel, from the student's inputs to the teacher's.
    """

    model: CAFormer
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def __call__(self, variables: Variables, images: jax.Array) -> tuple[jax.Array, list[Projections]]:
        """See `Teacher`."""
        images = images * jnp.asarray(self.scale, images.dtype) + jnp.asarray(self.shift, images.dtype)
        logits, captured = self.model.apply(
            variables, images, mutable=["intermediates"], capture_intermediates=_is_qkv
        )
        stages: Any = captured["intermediates"]
        return logits, [
            _split(stages[f"stages_{stage}"][f"blocks_{i}"]["token_mixer"]["qkv"]["__call__"][0])
            for stage, mixer in enumerate(MIXERS)
            if mixer == "attention"
            for i in range(self.model.depths[stage])
        ]


def _is_qkv(module: nn.Module, method: str) -> bool:
    return module.name == "qkv"


def _split(qkv: jax.Array) -> Projections:
    """(N, H, W, 3 C) into q, k and v."""
    q, k, v = jnp.split(qkv, 3, axis=-1)
    return Projections(q=q, k=k, v=v, num_heads=q.shape[-1] // HEAD_WIDTH)


def is_projection(module: nn.Module, method: str) -> bool:
    """Whether a module gives q, k or v as attention takes them, for `capture_intermediates`."""
    return module.name in ("q_neuron", "k_neuron", "v_neuron")


def projections(model: Classifier, intermediates: Mapping[str, Any], images: jax.Array) -> list[Projections]:
    """q, k and v of all blocks, first to last, from what `is_projection` let through.

    Spikes count with their values, and of several time steps the mean, the firing rate, is taken.
    """
    backbone = model.backbone
    height, width = (side // STRIDE for side in images.shape[-3:-1])

    def found(block: str, name: str) -> jax.Array:
        [output] = intermediates[block]["attn"][f"{name}_neuron"]["__call__"]
        values = values_of(output)
        steps = values.reshape(-1, backbone.timesteps, height, width, values.shape[-1])
        return jnp.mean(steps, axis=1)

    return [
        Projections(**{name: found(block, name) for name in "qkv"}, num_heads=backbone.num_heads)
        for block in backbone.block_names
    ]
