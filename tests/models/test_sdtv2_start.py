"""A small Spike-driven Transformer V2 is trained from a start of its own, not from the published one."""

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from qsdt_jax.losses.classification import cross_entropy
from qsdt_jax.models import create_model, init_variables

SIZE = {"channels": (8, 16, 24, 32), "depth": 2, "num_heads": 4, "num_classes": 10, "in_channels": 1}
START = 2.0


def variables_of(bias: float) -> dict:
    return init_variables(create_model("sdtv2_s", **SIZE, qkv_bias_init=bias), seed=0)


def test_only_the_norms_of_q_k_and_v_start_elsewhere():
    published, own = (flatten_dict(variables_of(bias), sep="/") for bias in (0.0, START))
    moved = {name for name, leaf in own.items() if not np.array_equal(leaf, published[name])}
    norms = {f"params/block{b}_0/attn/{x}_bn/bias" for b in "34" for x in "qkv"}
    assert moved == norms and all(np.all(own[name] == START) for name in norms)


@pytest.mark.slow
def test_the_gradient_explodes_from_the_published_start_alone():
    model = create_model("sdtv2_s", **SIZE)
    generator = np.random.default_rng(0)
    images, labels = generator.normal(size=(8, 32, 32, 1)).astype(np.float32), np.arange(8)

    @jax.jit
    def norm(variables):
        def loss(params):
            given = {**variables, "params": params}
            logits, _ = model.apply(given, images, train=True, mutable=["batch_stats"])
            return cross_entropy(logits, labels).mean()

        return optax.tree.norm(jax.grad(loss)(variables["params"]))

    assert not float(norm(variables_of(0.0))) < 1e6
    assert float(norm(variables_of(START))) < 100
