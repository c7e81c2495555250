import csv
import io

import jax
import numpy as np
import pytest

from qsdt_jax.deploy.fold import fold
from qsdt_jax.energy.operations import layers_of
from qsdt_jax.energy.report import levels_table, make_report
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.models import SIZES, QSDTransformer
from qsdt_jax.models.operations import layer_operations
from qsdt_jax.models.shapes import variable_shapes
from tests.deploy.nets import draw_variables, short_net, tiny_segmenter
from tests.energy.test_report import activity_at


@pytest.mark.slow
def test_same_operations_as_the_traced_network():
    """The folded program and the flax modules are counted by different code."""
    model = short_net(timesteps=2)
    traced = {layer.name: layer for layer in layer_operations(model, (32, 48))}
    layers = layers_of(fold(model, draw_variables(model)), (32, 48))
    assert {layer.name for layer in layers} == traced.keys()
    for layer in layers:
        expected = traced[layer.name]
        assert (layer.macs, layer.weights, layer.bits) == (expected.macs, expected.weights, expected.bits)
        assert (layer.spikes, layer.entering, layer.inputs) == (
            expected.spikes,
            expected.entering,
            expected.inputs,
        )


@pytest.mark.slow
def test_size_s_has_the_published_operations():
    """6.47 G, by hand in tests/models/test_operations.py."""
    model = QSDTransformer(**SIZES["S"])
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), variable_shapes(model))
    layers = layers_of(fold(model, variables), (224, 224))
    assert sum(layer.macs for layer in layers) == pytest.approx(6.47e9, rel=1e-3)
    assert sum(layer.macs for layer in layers if layer.spikes is None) == 689_179_904  # 11 % of real values.
    assert layers[0].entering is None and layers[0].inputs == 224 * 224 * 3


def test_chains_know_the_spikes_that_enter_them():
    model = short_net()
    layers = {layer.name: layer for layer in layers_of(fold(model, draw_variables(model)), (32, 32))}
    for layer in ("dwconv", "conv2"):
        chained = layers[f"block3_0/attn/q_repconv/{layer}"]
        assert chained.spikes is None and chained.entering == "block3_0/attn/neuron"
    last = layers["conv_block1_1/sepconv/pwconv2"]
    assert last.spikes is None and last.entering == "conv_block1_1/sepconv/neuron2"
    assert layers["block3_0/attn/k^T v"].spikes == "block3_0/attn/k_neuron"
    assert layers["block3_0/attn/q (k^T v)"].spikes == "block3_0/attn/q_neuron"


def test_neck_and_head_of_a_segmenter_by_hand():
    """Images of 32x48 pixels: 384, 96, 24 and 6 pixels at strides 2, 4, 8 and 16."""
    rules = (BitsRule(pattern="seg_head/classifier", bits=8),)
    model = tiny_segmenter(bits_rules=rules, levels=4)
    traced = {layer.name: layer for layer in layer_operations(model, (32, 48))}
    program = fold(model, draw_variables(model))
    layers = {layer.name: layer for layer in layers_of(program, (32, 48))}
    assert layers.keys() == traced.keys()
    for name, layer in layers.items():
        expected = traced[name]
        assert (layer.macs, layer.weights, layer.bits) == (expected.macs, expected.weights, expected.bits), (
            name
        )
        assert (layer.spikes is not None) == expected.spike_input

    pixels, widths, unit = (384, 96, 24, 6), (2, 4, 4, 8), 9 * 6 * 6
    by_hand = {f"fpn/lateral{i}/conv": n * 6 * c for i, (n, c) in enumerate(zip(pixels, widths, strict=True))}
    by_hand |= {f"fpn/output{i}/conv": n * unit for i, n in enumerate(pixels)}
    # A branch has a unit at each stride from its own down to 4, and the first one at 2.
    seen = {"0_0": 384, "1_0": 96, "2_0": 24, "2_1": 96, "3_0": 6, "3_1": 24, "3_2": 96}
    by_hand |= {f"seg_head/branch{name}/conv": n * unit for name, n in seen.items()}
    by_hand["seg_head/classifier"] = 384 * 6 * 5
    found = {name: layer.macs for name, layer in layers.items() if name.startswith(("fpn", "seg_head"))}
    assert found == by_hand
    assert layers["seg_head/classifier"].bits == 8 and layers["fpn/output0/conv"].bits == 4

    report = make_report(program, (32, 48), activity_at(program, 0.3))
    rows = list(csv.DictReader(io.StringIO(levels_table(report))))
    assert sum(int(row["macs"]) for row in rows) == report.macs
    macs = {(row["part"], int(row["stride"])): int(row["macs"]) for row in rows}
    assert macs["seg_head", 2] == 384 * (unit + 30) and macs["seg_head", 4] == 3 * 96 * unit
    assert macs["seg_head", 8] == 2 * 24 * unit and macs["seg_head", 16] == 6 * unit
    assert [macs["fpn", 2**i] for i in range(1, 5)] == [
        n * (unit + 6 * c) for n, c in zip(pixels, widths, strict=True)
    ]
    assert {row["firing_rate"] for row in rows} == {"", "0.3"}  # None of the stem.
