"""Activations, weights and energy with memory of a small network against sums done by hand."""

import numpy as np
import pytest

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.deploy.program import IMAGES, Attend, Fire, Linear, Pool, Program
from qsdt_jax.energy.rates import Activity
from qsdt_jax.energy.report import make_report
from qsdt_jax.layers.lowering import ConvGeometry


def linear(name: str, x: str, shape: tuple[int, ...], geometry: ConvGeometry, spikes: bool = True) -> Linear:
    weights, vector = np.ones(shape, np.int8), np.ones(shape[-1], np.float32)
    return Linear(
        name=name,
        input=x,
        spikes=spikes,
        geometry=geometry,
        bits=4,
        weights=weights,
        scale=vector,
        shift=vector,
    )


def small_program() -> Program:
    """A stem, one attention of two heads on 2x2 tokens of 4 channels, a head."""
    point = ConvGeometry()
    return Program(
        steps=(
            linear("stem", IMAGES, (3, 3, 1, 4), ConvGeometry(2, 1), spikes=False),
            Fire(name="neuron", input="stem"),
            *(linear(f"{name}_conv", "neuron", (1, 1, 4, 4), point) for name in "qkv"),
            *(Fire(name=name, input=f"{name}_conv") for name in "qkv"),
            Attend(name="attn", q="q", k="k", v="v", heads=2, scale=0.5),
            Pool(name="pool", input="attn"),
            Fire(name="head_neuron", input="pool"),
            linear("head", "head_neuron", (1, 1, 4, 3), point),
        ),
        neuron=make_neuron(levels=4),
        outputs=(("logits", "head"),),
    )


def activity(**counts: int) -> Activity:
    """Neurons that give one count and 0 equally often."""
    histograms = {name: np.bincount([0, count], minlength=5) for name, count in counts.items()}
    return Activity(histograms, {"top1": 50.0}, 1)


def test_traffic_by_hand():
    """One image of 4x4 pixels, mean counts 1, 1/2, 3/2 and 2 of neuron, q, k and head_neuron."""
    report = make_report(small_program(), (4, 4), activity(neuron=2, q=1, k=3, v=4, head_neuron=4))
    found = {
        row.layer.name: (row.layer.macs, row.layer.weights, row.layer.inputs, row.layer.outputs)
        for row in report.layers
    }
    assert found == {
        "stem": (144, 36, 16, 16),
        **{f"{name}_conv": (64, 16, 16, 16) for name in "qkv"},
        "attn/k^T v": (32, 0, 2 * 16, 2 * 2 * 2),
        "attn/q (k^T v)": (32, 0, 16 + 8, 16),
        "head": (12, 12, 4, 3),
    }
    total = report.totals["with memory"]
    from_dram = (36 + 3 * 16 + 12) * 4 / 32 * 640  # pJ: each weight once.

    # Bits in and out of SRAM: a weight (in attention 32 bits) for each addition, inputs of 4 slots, sums of
    # 32 bits read and written in 4 slots; the stem as in any network.
    stem = 144 * 4 + 16 * 32 + 16 * 32
    convs = 3 * (64 * 4 + 16 * 4 + 16 * 32 * 8)
    attention = (48 * 32 + 32 * 4 + 8 * 32 * 8) + (16 * 32 + 24 * 4 + 16 * 32 * 8)
    head = 24 * 4 + 4 * 4 + 3 * 32 * 8
    operations = 144 * 4.6 + (3 * 64 + 48 + 16 + 24) * 0.1
    bits = stem + convs + attention + head
    assert total.spiking == pytest.approx(operations + from_dram + bits / 32 * 5)

    # Inputs of 3 bits, which hold 0..4, and each sum written once.
    convs = 3 * (64 * 4 + 16 * 3 + 16 * 32)
    attention = (32 * 32 + 32 * 3 + 8 * 32) + (32 * 32 + 24 * 3 + 16 * 32)
    head = 12 * 4 + 4 * 3 + 3 * 32
    operations = 144 * 4.6 + (3 * 64 + 32 + 32 + 12) * 0.23
    bits = stem + convs + attention + head
    assert total.quantized_ann == pytest.approx(operations + from_dram + bits / 32 * 5)

    # A word each; 96 weights, 412 operations, 124 inputs, 91 outputs.
    assert total.float_ann == pytest.approx(412 * 4.6 + 96 * 640 + (412 + 124 + 91) * 5)
