"""Merged convolutions compute what the chains compute."""

import jax
import numpy as np
import pytest

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.interpreter import interpret, outputs_of
from qsdt_jax.deploy.merge import FloatArithmetic, merge
from qsdt_jax.deploy.program import IMAGES, Add, Fire, Linear, Program, Resize
from qsdt_jax.deploy.validity import check_program
from qsdt_jax.layers.lowering import ConvGeometry
from tests.deploy.nets import draw_images, draw_variables, short_net


@pytest.mark.slow
def test_a_merged_network_is_the_same_function_of_spikes_alone():
    model = short_net(rectify="norm")
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
    model = short_net()
    program, images = fold(model, draw_variables(model)), draw_images(2, 32, 32, 3)
    merged = merge(program, 8)
    layer = next(layer for layer in merged.layers if layer.name.endswith("sepconv/pwconv2"))
    assert layer.weights.dtype == np.int8 and np.abs(layer.weights).max((0, 1, 2)).min() == 127
    exact = jax.jit(lambda p, x: interpret(p, x, IntegerArithmetic()))(merged, images)
    floats = jax.jit(lambda p, x: interpret(p, x, FloatArithmetic()))(merged, images)
    assert np.array_equal(exact["head"], floats["head"])


def convolution(name: str, x: str, size: int = 1, stride: int = 1, padding: int = 0, spikes=False) -> Linear:
    """Of three channels, its weights drawn by its name."""
    generator = np.random.default_rng(ord(name[0]))
    return Linear(
        name=name,
        input=x,
        spikes=spikes,
        geometry=ConvGeometry(stride, padding),
        bits=4,
        weights=generator.integers(-8, 8, (size, size, 3, 3)).astype(np.int8),
        scale=generator.uniform(0.05, 0.1, 3).astype(np.float32),
        shift=generator.uniform(-0.5, 0.5, 3).astype(np.float32),
    )


FIRE, FIRST = Fire(name="neuron", input=IMAGES), convolution("a", "neuron", size=3, padding=1, spikes=True)
SECOND, OTHER = convolution("b", "a"), convolution("c", "a")
ENLARGED = Resize(name="enlarged", input="a", factor=2)
DOUBLE = Add(name="double", left="a", right="a")


@pytest.mark.parametrize(
    ("steps", "outputs", "left"),
    [
        ((FIRE, FIRST, SECOND), ("b",), ("neuron", "b")),
        ((FIRE, FIRST, SECOND, OTHER), ("b", "c"), ("neuron", "b", "c")),
        ((FIRE, FIRST, SECOND), ("a", "b"), ("neuron", "a", "b")),
        ((FIRE, FIRST, SECOND, ENLARGED), ("b", "enlarged"), ("neuron", "a", "b", "enlarged")),
        ((FIRE, FIRST, SECOND, DOUBLE), ("b", "double"), ("neuron", "a", "b", "double")),
        ((FIRE, FIRST, Fire(name="n", input="a"), SECOND), ("b",), ("neuron", "a", "n", "b")),
        # What is not one convolution: two larger ones, zeros around real values, real values at the start.
        ((FIRE, FIRST, convolution("b", "a", size=3)), ("b",), ("neuron", "a", "b")),
        ((FIRE, FIRST, convolution("b", "a", padding=1)), ("b",), ("neuron", "a", "b")),
        ((FIRE, FIRST, convolution("b", "a", stride=2)), ("b",), ("neuron", "a", "b")),
        (
            (FIRE, convolution("a", "neuron", stride=2, spikes=True), convolution("b", "a", size=3)),
            ("b",),
            ("neuron", "a", "b"),
        ),
        ((convolution("a", IMAGES), SECOND), ("b",), ("a", "b")),
    ],
)
def test_every_reader_of_a_chain_gets_its_values(steps, outputs, left):
    """Convolutions that others read too stay; those of which one convolution cannot be made stay apart."""
    pairs = tuple(zip(outputs, outputs, strict=True))
    program = Program(steps=steps, neuron=make_neuron(), outputs=pairs)
    check_program(program, (16, 16))
    merged, images = merge(program), draw_images(1, 16, 16, 3)
    check_program(merge(program, 8), (16, 16))
    assert tuple(step.name for step in merged.steps) == left
    expected = outputs_of(program, interpret(program, images, IntegerArithmetic()))
    found = outputs_of(merged, interpret(merged, images, FloatArithmetic()))
    for name in outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4)
