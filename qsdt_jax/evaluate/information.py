"""What the spikes of attention carry: entropy, mutual information, bimodality; and how many spikes there are.

For each head of q, k and v in each block, over images, time steps, tokens and the head's channels, once with
the potential u before rectification and once after it, each with the count c that the neuron gives for it:

    entropy             H(c) = - sum p log2 p, in bits; at most log2(D + 1)
    mutual information  I(u; c) = H(c) + H(u) - H(u, c), with u in bins of 1/8. A count is a function of the
                        potential, so this is H(c) (the paper's reason to raise H), less what varies inside of
                        a bin: nothing for D = 1, 2, 4, whose thresholds lie on the bins' edges
    bimodality          (skewness^2 + 1) / kurtosis of u (Sarle's coefficient): 1/3 for a normal distribution,
                        5/9 for a uniform one, 1 for two points

Rectification is what stands right before the neuron: the batch norm with its learned affine map
(`rectify="bn"`), or `HeadRectify`. With several time steps u is the input current, not the membrane.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from qsdt_jax.core.affine import real
from qsdt_jax.core.neurons import Neuron, spike_count
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.data.dense.framing import SIZE
from qsdt_jax.errors import UserError
from qsdt_jax.layers.attention import QSDSA
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.tokens import valid_places
from qsdt_jax.models import Classifier, Segmenter

LOWEST, HIGHEST, BINS_PER_UNIT = -1.0, 2.0, 8
BINS = round((HIGHEST - LOWEST) * BINS_PER_UNIT)  # The outermost hold all that lies beyond.
MOMENTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadDistributions:
    """Potential and count of each head of one projection.

    Attributes:
      joint: (heads, BINS, D + 1) numbers of pairs (bin of the potential, count).
      moments: (heads, 4) means of u, u^2, u^3, u^4.
    """

    joint: np.ndarray
    moments: np.ndarray

    @property
    def count_entropy(self) -> np.ndarray:
        """(heads,) H(c) in bits."""
        return entropy(self.joint.sum(1))

    @property
    def mutual_information(self) -> np.ndarray:
        """(heads,) I(u; c) in bits."""
        both = entropy(self.joint.reshape(len(self.joint), -1))
        return self.count_entropy + entropy(self.joint.sum(2)) - both

    @property
    def bimodality(self) -> np.ndarray:
        """(heads,) Sarle's coefficient of u; not a number where u does not vary."""
        m1, m2, m3, m4 = self.moments.T
        variance = m2 - m1**2
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        with np.errstate(divide="ignore", invalid="ignore"):
            return (third**2 / variance**3 + 1) / (fourth / variance**2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Information:
    """What was found on a split.

    Attributes:
      before, after: rectification, by projection, e.g. "block3_0/attn/q".
      spikes: number of spikes of each neuron layer for one image, all time steps together.
    """

    before: dict[str, HeadDistributions]
    after: dict[str, HeadDistributions]
    spikes: dict[str, float]


def entropy(histogram: np.ndarray) -> np.ndarray:
    """Entropy in bits over the last axis of numbers of occurrences."""
    p = histogram / np.maximum(histogram.sum(-1, keepdims=True), 1)
    return -np.sum(p * np.log2(np.where(p > 0, p, 1)), axis=-1)


def measure(
    model: Classifier | Segmenter, variables: Mapping[str, Any], batches: Iterable[Mapping[str, Any]]
) -> Information:
    """Distributions and spikes of a network in evaluation.

    Args:
      model: with spiking neurons.
      variables: of it.
      batches: {"image": (B, ...), "mask": (B,)}; rows with mask 0 are padding, and where there is "size",
        (B, 2), pixels outside of it. What padding makes of itself is not measured.

    Raises:
      UserError: the network has no spiking neurons.
    """
    if model.backbone.neuron == "relu":
        raise UserError("the network has no spiking neurons (neuron=relu), so there are no spikes to measure")
    total, images = None, 0
    for batch in batches:
        sums = jax.device_get(_sums(model, variables, batch["image"], batch["mask"], batch.get(SIZE)))
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
        images += int(np.sum(batch["mask"]))
    if total is None or not images:
        raise UserError("there are no images to measure the spikes of")
    distributions, spikes = total
    found = {
        when: {
            name: HeadDistributions(joint=joint, moments=powers / joint.sum((1, 2))[:, None])
            for name, (joint, powers) in by_name.items()
        }
        for when, by_name in distributions.items()
    }
    return Information(**found, spikes={name: float(count) / images for name, count in spikes.items()})


@functools.partial(jax.jit, static_argnames="model")
def _sums(
    model: Classifier | Segmenter, variables: Mapping[str, Any], images: jax.Array, mask: jax.Array,
    sizes: jax.Array | None,
):  # fmt: skip
    """Sums over a batch: {"before" or "after": {projection: (joint, powers)}} and {neuron layer: spikes}."""
    weight = jnp.repeat(mask.astype(jnp.float32), model.backbone.timesteps)
    neuron = model.backbone.numerics.neuron
    assert neuron is not None
    rectify = "bn" if model.backbone.rectify == "bn" else "rectify"

    def valid(shape: tuple[int, ...]) -> jax.Array:
        """Which places of a value are image, of its rank."""
        if sizes is None:
            return jnp.ones([1] * len(shape), bool)
        return valid_places(sizes, images.shape[-3:-1], model.backbone.timesteps, shape)

    distributions: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
    spikes: dict[str, jax.Array] = {}

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        module: nn.Module = context.module
        if context.method_name != "__call__":
            return y
        name = "/".join(module.path)
        if isinstance(module, SpikingNeuron) and isinstance(y, Spikes):
            counts = jnp.where(valid(y.counts.shape), y.counts, 0)
            spikes[name] = jnp.sum(counts.reshape(len(weight), -1).sum(1) * weight)
        projection, _, role = (module.name or "").partition("_")
        if isinstance(module.parent, QSDSA) and projection in ("q", "k", "v") and role in (rectify, "neuron"):
            when = "after" if role == "neuron" else "before"
            potential = real(args[0])
            weights = jnp.where(valid(potential.shape), weight.reshape(-1, *[1] * (potential.ndim - 1)), 0)
            found = _head_sums(potential, weights, model.backbone.num_heads, neuron)
            distributions[when]["/".join((*module.path[:-1], projection))] = found
        return y

    extra: dict[str, Any] = {} if sizes is None else {"sizes": sizes}
    with nn.intercept_methods(record):
        model.apply(variables, images, **extra)
    return distributions, spikes


def _head_sums(potential: jax.Array, weights: jax.Array, heads: int, neuron: Neuron):
    """The joint histogram (heads, BINS, D + 1) and sums of powers (heads, 4) of potentials (N, ..., C).

    Weights are (N, ..., 1), and those of an image may stand once for all its places.
    """
    u = potential.reshape(len(potential), -1, heads, potential.shape[-1] // heads)
    weights = jnp.broadcast_to(weights.reshape(len(potential), -1, 1, 1), u.shape)
    bins = jnp.clip(jnp.floor((u - LOWEST) * BINS_PER_UNIT), 0, BINS - 1).astype(jnp.int32)
    counts = spike_count(u, neuron).astype(jnp.int32)
    head = jnp.arange(heads)[:, None]
    index = (head * BINS + bins) * (neuron.levels + 1) + counts
    shape = (heads, BINS, neuron.levels + 1)
    joint = jnp.zeros(heads * BINS * (neuron.levels + 1)).at[index].add(weights).reshape(shape)
    powers = jnp.stack([jnp.sum(u**k * weights, axis=(0, 1, 3)) for k in range(1, MOMENTS + 1)], axis=1)
    return joint, powers
