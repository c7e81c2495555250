"""Folding: what is refused, and that nothing is left over."""

import re

import jax
import numpy as np
import pytest

from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.program import Attend
from qsdt_jax.errors import UserError
from tests.deploy.nets import draw_variables, short_net


def test_float_weights_are_refused():
    model = short_net(bits=32)
    with pytest.raises(
        UserError, match=r"float weights \(bits=32\).*expected a network trained with 1 to 8 bits"
    ):
        fold(model, draw_variables(model))


def test_counts_beyond_int8_are_refused():
    model = short_net(levels=128)
    with pytest.raises(UserError, match=r"D = 128 do not fit int8; expected D <= 127"):
        fold(model, draw_variables(model))


def test_a_neuron_unlike_the_others_is_refused():
    model = short_net(attention_threshold=0.25)
    told = "block3_0/attn/attn_neuron has a threshold of its own (0.25); expected a network whose neurons"
    with pytest.raises(UserError, match=re.escape(told)):
        fold(model, draw_variables(model))


@pytest.mark.slow
def test_sums_beyond_float32_are_refused():
    """The bound is that of the weights at hand, not of the worst ones."""
    model = short_net(bits=8, levels=60, channels=(64, 8, 16, 24), mlp_ratio=8)
    variables = draw_variables(model)
    fold(model, variables)
    kernel = variables["params"]["conv_block1_1"]["conv2"]["kernel"]
    variables["params"]["conv_block1_1"]["conv2"]["kernel"] = np.full_like(kernel, -9)
    largest = 9 * 8 * 32 * 128 * 60
    with pytest.raises(UserError, match=rf"sums in conv_block1_1/conv2 can reach {largest}"):
        fold(model, variables)


def test_every_variable_has_its_place():
    model = short_net()
    variables = draw_variables(model)
    variables["params"]["head"]["temperature"] = np.ones(1)
    with pytest.raises(ValueError, match="no place for params/head/temperature"):
        fold(model, variables)


@pytest.mark.parametrize("name", ["bias", "kernel"])
def test_every_place_has_its_variable(name):
    model = short_net()
    variables = draw_variables(model)
    shape = variables["params"]["block3_0"]["mlp"]["fc1"].pop(name).shape
    with pytest.raises(ValueError, match=re.escape(f"folding lacks params/block3_0/mlp/fc1/{name} {shape}")):
        fold(model, variables)


def test_variables_have_the_shapes_of_the_network():
    model = short_net()
    variables = draw_variables(short_net(num_classes=11))
    told = "folding expects params/head/bias (10,), found (11,); expects params/head/kernel (24, 10), found"
    with pytest.raises(ValueError, match=re.escape(told)):
        fold(model, variables)


def test_program_is_small_integers_and_vectors():
    model = short_net(bits=2, levels=7, attention_scale=0.3)
    program = fold(model, draw_variables(model))
    unit = program.neuron.step
    scales = [step.scale for step in program.steps if isinstance(step, Attend)]
    # As evaluation multiplies; in another order, this scale is another double.
    assert scales == [0.3 * (unit * unit * unit)]
    assert 0.3 * (unit * unit * unit) != 0.3 * unit * unit * unit
    assert (program.in_channels, program.num_classes, program.bits) == (3, 10, (2,))
    for layer in program.layers:
        assert layer.weights.dtype == np.int8 and set(np.unique(layer.weights)) <= {-2, -1, 0, 1}
        assert layer.scale.dtype == layer.shift.dtype == np.float32
        assert layer.scale.shape == layer.shift.shape == layer.weights.shape[3:]
    kernels = [
        p for p, _ in jax.tree_util.tree_leaves_with_path(draw_variables(model)) if p[-1].key == "kernel"
    ]
    assert len(program.layers) == len(kernels)


def test_names_are_used_after_they_are_made():
    program = fold(model := short_net(), draw_variables(model))
    known = {"images"}
    for step in program.steps:
        fields = {name: getattr(step, name, None) for name in ("input", "q", "k", "v", "left", "right")}
        assert {name for name in fields.values() if name is not None} <= known
        assert step.name not in known
        known.add(step.name)
