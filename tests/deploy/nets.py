"""Classifiers with drawn variables through which spikes flow, and their evaluation with all counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.models import QSDTransformer

TINY: dict[str, Any] = {
    "channels": (8, 8, 16, 24),
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 2,
    "num_classes": 10,
}

RANGES = {"var": (0.5, 1.5), "scale": (0.5, 1.5), "layer_scale1": (0.1, 1), "layer_scale2": (0.1, 1)}


def tiny_net(**overrides) -> QSDTransformer:
    return QSDTransformer(**{**TINY, **overrides})


def draw_variables(model: QSDTransformer, seed: int = 1) -> dict:
    """Variables of the size of trained ones; no two entries alike, so that a mix-up shows."""
    generator = np.random.default_rng(seed)
    image = jax.ShapeDtypeStruct((1, 32, 32, model.in_channels), jnp.float32)

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name == "kernel":
            kernel = generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
            return kernel.astype(leaf.dtype)
        if name == "step_size":
            return generator.uniform(0.8, 1.2, shape).astype(leaf.dtype) / 2 ** (model.bits - 1)
        low, high = RANGES.get(name, (-0.5, 0.5))
        return generator.uniform(low, high, shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), image))


def draw_images(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def training_form(model: QSDTransformer, variables: dict, images: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """Logits in evaluation mode, and the counts of each neuron by its name."""

    @jax.jit
    def forward(variables, images):
        logits, state = model.apply(
            variables,
            images,
            capture_intermediates=lambda module, _: isinstance(module, SpikingNeuron),
            mutable=["intermediates"],
        )
        spikes = flatten_dict(state["intermediates"])
        return logits, {"/".join(path[:-1]): value[0].counts for path, value in spikes.items()}

    return forward(variables, images)


def differing_counts(counts: dict[str, Any], values: dict[str, Any]) -> dict[str, int]:
    """Number of counts of each neuron that are not equal, of the neurons where there are any."""
    different = {
        name: int(np.sum(np.asarray(expected).reshape(-1) != np.asarray(values[name]).reshape(-1)))
        for name, expected in counts.items()
    }
    return {name: number for name, number in different.items() if number}
