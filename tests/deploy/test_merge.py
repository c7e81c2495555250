"""Merged convolutions compute what the chains compute."""

import jax
import numpy as np
import pytest

from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import interpret
from qsdt_jax.deploy.merge import FloatArithmetic, merge
from tests.deploy.nets import draw_images, draw_variables, tiny_net


@pytest.mark.slow
def test_a_merged_network_is_the_same_function_of_spikes_alone():
    model = tiny_net(rectify="norm")
    program, images = fold(model, draw_variables(model)), draw_images(2, 32, 48, 3)
    merged = merge(program)
    assert [layer.name for layer in merged.layers if not layer.spikes] == ["downsample1_1/conv"]
    expected = jax.jit(lambda p, x: interpret(p, x, IntegerArithmetic()))(program, images)
    found = jax.jit(lambda p, x: interpret(p, x, FloatArithmetic()))(merged, images)
    first = "conv_block1_1/sepconv/pwconv2"
    np.testing.assert_allclose(found[first], expected[first], rtol=0, atol=2e-5)
    # A rounding error moves a count only where the membrane lies at a threshold; the real values stay close.
    different = np.mean(found["head_neuron"] != expected["head_neuron"])
    assert different < 0.02
    for layer in merged.layers:
        if layer.name.endswith("q_repconv/conv2"):
            assert layer.weights.shape[:2] == (3, 3) and layer.geometry.padding == 1


@pytest.mark.slow
def test_merged_kernels_rounded_to_integers_run_in_integers():
    model = tiny_net()
    program, images = fold(model, draw_variables(model)), draw_images(2, 32, 32, 3)
    merged = merge(program, 8)
    layer = next(layer for layer in merged.layers if layer.name.endswith("sepconv/pwconv2"))
    assert layer.weights.dtype == np.int8 and np.abs(layer.weights).max((0, 1, 2)).min() == 127
    exact = jax.jit(lambda p, x: interpret(p, x, IntegerArithmetic()))(merged, images)
    floats = jax.jit(lambda p, x: interpret(p, x, FloatArithmetic()))(merged, images)
    assert np.array_equal(exact["head"], floats["head"])
