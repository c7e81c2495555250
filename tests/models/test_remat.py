"""Blocks that are computed again in the backward pass: less memory, the same network."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.layers.numerics import Numerics
from qsdt_jax.layers.remat import Remat, call_block
from qsdt_jax.layers.spiking import SpikingNeuron
from qsdt_jax.layers.transformer_block import TransformerBlock
from qsdt_jax.losses.classification import cross_entropy
from qsdt_jax.tasks.teacher import is_projection
from tests.golden.network import images, network, variables_of

LABELS = jnp.array([0, 3, 1, 4])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def gradients(remat: str, variables: dict[str, Any]):
    """Loss, gradients, new running statistics, and q, k and v of a training step with drop path."""
    model = network(remat=remat)

    def loss(params):
        logits, updates = model.apply(
            {**variables, "params": params},
            images(),
            train=True,
            rngs={"drop_path": jax.random.key(9)},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=is_projection,
        )
        return jnp.mean(cross_entropy(logits, LABELS, 0.1)), updates

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["blocks", "spikes"])
def test_names_values_and_gradients_are_equal(remat):
    """To rounding, and the drop path drops the same branches; what a teacher sees is seen too."""
    plain, variables = (variables_of(network(remat=name)) for name in ("none", remat))
    assert jax.tree.structure(plain) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, plain, variables)
    ((loss, updates), grads), expected = (gradients(name, plain) for name in (remat, "none"))
    (expected_loss, expected_updates), expected_grads = expected
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    spikes = jax.tree.leaves(updates["intermediates"], is_leaf=lambda x: isinstance(x, Spikes))
    assert len(spikes) == 3 * 3
    for found, wanted in ((updates, expected_updates), (grads, expected_grads)):
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), found, wanted)
    kernels = [grad for path, grad in flatten_dict(grads).items() if path[-1] == "kernel"]
    assert (
        np.mean([np.any(grad != 0) for grad in kernels]) > 0.8
    )  # The others' branch was dropped for all images.


@pytest.mark.parametrize("remat", ["none", "blocks", "spikes"])
def test_what_is_computed_again(remat):
    """Each block and downsampling of a training step stands under a checkpoint, of an evaluation none."""
    model = network(remat=remat)
    variables = jax.eval_shape(model.init, jax.random.key(0), images())
    rngs = {"drop_path": jax.random.key(9)}
    for train, blocks in ((True, 0 if remat == "none" else 5 + 4 + 3), (False, 0)):
        apply = functools.partial(model.apply, train=train, mutable=["batch_stats"], rngs=rngs)
        program = jax.make_jaxpr(apply)(variables, images())
        assert sum(equation.primitive.name == "remat2" for equation in program.eqns) == blocks


@pytest.mark.parametrize("changes", [{}, {"timesteps": 2, "neuron": "i_lif", "reset": "hard"}])
def test_of_spikes_a_byte_is_kept_and_nothing_else(changes, capsys):
    """Of all that is between the images and the last map of a backbone; vectors of statistics apart."""
    model = network(remat="spikes", **changes).backbone.clone(parent=None, name=None)
    init = functools.partial(model.init, method="features")
    variables = jax.eval_shape(functools.partial(init, train=False), jax.random.key(0), images())
    apply = functools.partial(model.apply, method="features", rngs={"drop_path": jax.random.key(9)})

    def loss(params, statistics, images):
        variables = {"params": params, "batch_stats": statistics}
        stages, _ = apply(variables, images, True, mutable=["batch_stats"])
        return jnp.sum(stages["stage4"])

    arguments = variables["params"], variables["batch_stats"], images()
    jax.ad_checkpoint.print_saved_residuals(loss, *arguments)
    kept = [line for line in capsys.readouterr().out.splitlines() if "from the argument" not in line]
    bytes_kept = [re.match(r"i8\[([\d,]+)\] named 'kept'", line) for line in kept]
    others = [line for line, found in zip(kept, bytes_kept, strict=True) if not found]
    small = r"key|f64\[\] |f64\[\d+,32,32,3\] .*frames|f64\[\d+,1,1,1,1,\d+\] "
    assert not [line for line in others if not re.match(small, line)]

    is_neuron = lambda module, _: isinstance(module, SpikingNeuron)  # noqa: E731
    spikes = jax.eval_shape(
        functools.partial(apply, train=True, capture_intermediates=is_neuron, mutable=True),
        variables,
        images(),
    )[1]["intermediates"]
    shapes = [tuple(map(int, found[1].split(","))) for found in bytes_kept if found]
    emitted = jax.tree.leaves(spikes, is_leaf=lambda x: isinstance(x, Spikes))
    assert sum(map(math.prod, shapes)) == sum(x.counts.size for x in emitted)


class OneBlock(nn.Module):
    """A block of Spike-driven Transformer V2, which has no layer scales."""

    remat: Remat

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        neuron = make_neuron(
            "lif", levels=1, timesteps=2, reset="hard", surrogate="sigmoid", decay_input=True
        )
        types = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        block = TransformerBlock(
            Numerics(bits=32, neuron=neuron, **types),
            num_heads=2,
            mlp_ratio=1,
            attention_scale=0.125,
            attention_gain=1.0,
            attention_threshold=0.5,
            layer_scale=False,
            name="block",
        )
        return call_block(self.remat, block, x, True, None)


def test_a_block_without_layer_scales():
    x = np.random.default_rng(0).normal(1, 1, (4, 3, 3, 4))
    shapes = jax.eval_shape(OneBlock("none").init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.random.default_rng(1).uniform(0.5, 2, leaf.shape), shapes)

    def gradients(remat: Remat):
        def loss(params):
            given = {**variables, "params": params}
            y, written = OneBlock(remat).apply(given, x, mutable=["batch_stats"])
            return jnp.sum(y**2), written

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    expected = gradients("none")
    kernels = [leaf for path, leaf in flatten_dict(expected[1]).items() if path[-1] == "kernel"]
    assert all(np.any(grad != 0) for grad in kernels)
    for remat in ("blocks", "spikes"):
        found = gradients(remat)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), found, expected)
