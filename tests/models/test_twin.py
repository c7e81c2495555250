"""The float twin, and bits by module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs.ablations.modules import PARTS
from qsdt_jax.core.spikes import Spikes
from qsdt_jax.deploy.fold import fold
from qsdt_jax.errors import UserError
from qsdt_jax.layers.attention import softmax_attention
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.models.operations import layer_operations
from tests.deploy.nets import draw_images, draw_variables, tiny_net

HEAD = BitsRule(pattern="head", bits=8)
TWIN = {"neuron": "relu", "bits": 32, "attention": "softmax"}


@pytest.mark.parametrize("spikes", [False, True])
def test_softmax_attention_against_numpy(spikes):
    """On real values, and on the values of spikes."""
    generator = np.random.default_rng(0)
    q, k, v = (generator.integers(0, 5, (2, 6, 8)) for _ in "qkv")
    arguments = [
        Spikes(counts=jnp.asarray(x, jnp.float32), step=0.25, levels=4) if spikes else jnp.asarray(x / 4)
        for x in (q, k, v)
    ]
    found = softmax_attention(*arguments, num_heads=2)
    for image in range(2):
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            qh, kh, vh = (x[image, :, own] / 4 for x in (q, k, v))
            scores = np.exp(qh @ kh.T / 2)
            expected = scores / scores.sum(-1, keepdims=True) @ vh
            np.testing.assert_allclose(found[image, :, own], expected, rtol=1e-5)


@pytest.mark.slow
def test_twin_has_the_parameters_of_the_float_network():
    """The same layout: only what stands between the layers differs."""
    twin, spiking = (draw_variables(tiny_net(**kind)) for kind in (TWIN, {"bits": 32}))
    assert jax.tree.map(np.shape, twin) == jax.tree.map(np.shape, spiking)


def test_twin_has_no_spikes_and_sees_every_token():
    layers = layer_operations(tiny_net(**TWIN), (32, 32))
    assert not [layer.name for layer in layers if layer.spike_input]
    [scores] = [layer for layer in layers if layer.name == "block3_0/attn/q k^T"]
    assert (scores.macs, scores.output_shape) == (4 * 4 * 16, (4, 4, 4))


@pytest.mark.slow
def test_a_float_network_has_no_steps_of_quantisation():
    """A small change of the image changes the twin's answer a little, and so in proportion."""
    model = tiny_net(**TWIN)
    variables, image = draw_variables(model), draw_images(1, 32, 32, 3)
    forward = jax.jit(model.apply)
    start = forward(variables, image)
    small, smaller = (np.abs(forward(variables, image + e) - start).max() for e in (1e-2, 1e-3))
    assert 3 < small / smaller < 30


@pytest.mark.slow
def test_each_part_has_its_own_bits():
    found = {}
    for part, pattern in PARTS.items():
        model = tiny_net(bits=32, bits_rules=(BitsRule(pattern=pattern, bits=3),))
        layers = layer_operations(model, (32, 32))
        found[part] = {layer.name for layer in layers if layer.bits == 3}
    layers = {layer.name for layer in layers if layer.weights}
    assert set.union(*found.values()) == layers
    assert sum(map(len, found.values())) == len(layers)  # No layer belongs to two parts.
    assert found["stem"] == {"downsample1_1/conv"} and found["head"] == {"head"}
    assert all("/q_repconv/" in name for name in found["q"]) and len(found["q"]) == 3 * 2
    assert all("/mlp/" in name for name in found["mlp"]) and len(found["mlp"]) == 2 * 2


def test_step_sizes_follow_the_bits_of_the_part():
    model = tiny_net(bits=4, bits_rules=(BitsRule(pattern=".*/v_repconv/.*", bits=32),))
    names = {"/".join(path) for path in flatten_dict(draw_variables(model)["params"])}
    assert "block3_0/attn/q_repconv/conv1/step_size" in names
    assert "block3_0/attn/v_repconv/conv1/step_size" not in names


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"neuron": "relu", "timesteps": 2}, "a relu has no time steps: timesteps must be 1, got 2"),
        ({"attention": "linear"}, "attention must be one of spiking, softmax; got 'linear'"),
        ({"remat": "all"}, "remat must be one of none, blocks, spikes; got 'all'"),
        ({"bits_rules": (HEAD, BitsRule(pattern="neck", bits=8))}, "'neck' of a bits rule matches no layer"),
        ({"bits_rules": (HEAD, HEAD)}, "'head' matches only layers that earlier bits rules match"),
        ({"bits_rules": (HEAD,), "spike_dtype": jnp.int4}, "too few for 8-bit weights"),
    ],
)
def test_values_out_of_range(changes, told):
    with pytest.raises(ValueError, match=told):
        jax.eval_shape(tiny_net(**changes).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize("changes", [{"neuron": "relu"}, {"attention": "softmax"}])
def test_what_is_not_spike_driven_is_not_exported(changes):
    with pytest.raises(UserError, match="only networks with spiking neurons"):
        fold(tiny_net(**changes), {"params": {"head": {"kernel": jnp.zeros((24, 2))}}})
