"""One small network with all its options, and what is known of it: names, shapes, first values and an answer.

`network.json` was written when the classifier was a backbone itself and its layers had other signatures. With
equal names and numbers every checkpoint of then goes on loading.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.models import Classifier, QSDTransformer
from tests.golden.recipe import FOLDER

FILE = FOLDER / "network.json"
PASSES = 20  # After which the running statistics let spikes through.
OPTIONS: dict[str, Any] = {
    "channels": (8, 8, 16, 24),
    "depth": 3,
    "num_heads": 4,
    "mlp_ratio": 2,
    "num_classes": 5,
    "distillation_head": True,
    "timesteps": 2,
    "rectify": "norm",
    "layer_scale_init": 0.5,
    "drop_path": 0.4,
    "norm_group": 2,
    "dtype": jnp.float64,
    "param_dtype": jnp.float64,
}


def network(**changes: Any) -> Classifier:
    """In float64, which has to be switched on."""
    return QSDTransformer(**{**OPTIONS, **changes})


def images() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((4, 32, 32, 3))


def variables_of(model: Classifier) -> dict[str, Any]:
    return jax.jit(model.init)(jax.random.key(5), images())


def described(model: Classifier) -> dict[str, Any]:
    """Each variable's shape, mean and root mean square; logits in training with drop path, in evaluation."""
    variables = variables_of(model)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    tensors = {
        "/".join(key.key for key in path): [leaf.shape, float(leaf.mean()), float(np.sqrt((leaf**2).mean()))]
        for path, leaf in leaves
    }
    rngs = {"drop_path": jax.random.key(9)}
    train = jax.jit(lambda v, x: model.apply(v, x, train=True, rngs=rngs, mutable=["batch_stats"]))
    for _ in range(PASSES):
        logits, updates = train(variables, images())
        variables = {**variables, **updates}
    evaluation = jax.jit(model.apply)(variables, images())
    return {
        "tensors": tensors,
        "training": np.asarray(logits).tolist(),
        "evaluation": np.asarray(evaluation).tolist(),
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    FILE.write_text(json.dumps(described(network()), indent=0) + "\n")
