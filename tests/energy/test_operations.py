import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.deploy.fold import fold
from qsdt_jax.energy.operations import layers_of
from qsdt_jax.models import SIZES, QSDTransformer
from qsdt_jax.models.operations import layer_operations
from tests.deploy.nets import draw_variables, tiny_net


@pytest.mark.slow
def test_same_operations_as_the_traced_network():
    """The folded program and the flax modules are counted by different code."""
    model = tiny_net(timesteps=2)
    traced = {layer.name: layer for layer in layer_operations(model, (32, 48))}
    layers = layers_of(fold(model, draw_variables(model)), (32, 48))
    assert {layer.name for layer in layers} == traced.keys()
    for layer in layers:
        expected = traced[layer.name]
        assert (layer.macs, layer.weights, layer.bits) == (expected.macs, expected.weights, expected.bits)
        assert (layer.spikes is not None) == expected.spike_input


@pytest.mark.slow
def test_size_s_has_the_published_operations():
    """6.47 G, by hand in tests/models/test_operations.py."""
    model = QSDTransformer(**SIZES["S"])
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    layers = layers_of(fold(model, variables), (224, 224))
    assert sum(layer.macs for layer in layers) == pytest.approx(6.47e9, rel=1e-3)
    assert sum(layer.macs for layer in layers if layer.spikes is None) == 689_179_904  # 11 % of real values.
    assert layers[0].entering is None and layers[0].inputs == 224 * 224 * 3


def test_chains_know_the_spikes_that_enter_them():
    model = tiny_net()
    layers = {layer.name: layer for layer in layers_of(fold(model, draw_variables(model)), (32, 32))}
    for layer in ("dwconv", "conv2"):
        chained = layers[f"block3_0/attn/q_repconv/{layer}"]
        assert chained.spikes is None and chained.entering == "block3_0/attn/neuron"
    last = layers["conv_block1_1/sepconv/pwconv2"]
    assert last.spikes is None and last.entering == "conv_block1_1/sepconv/neuron2"
    assert layers["block3_0/attn/k^T v"].spikes == "block3_0/attn/k_neuron"
    assert layers["block3_0/attn/q (k^T v)"].spikes == "block3_0/attn/q_neuron"
