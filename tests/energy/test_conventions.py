"""Prices of single layers against sums done by hand."""

import dataclasses

import pytest

from qsdt_jax.energy.conventions import Firing, additions, as_computed, bit_aware, paper, with_memory
from qsdt_jax.energy.layer import Layer

# 1x1 convolution, 10 -> 20 channels on 100 pixels, D = 4, half a spike a neuron.
LAYER = Layer(
    name="conv",
    kind="conv",
    macs=20_000,
    weights=200,
    bits=4,
    inputs=1000,
    outputs=2000,
    stride=2,
    spikes="neuron",
    entering="neuron",
)
CHAINED = dataclasses.replace(LAYER, spikes=None)
STEM = dataclasses.replace(LAYER, spikes=None, entering=None)
ATTENTION = dataclasses.replace(LAYER, kind="attention", weights=0, bits=0)
FIRING = Firing(4, {"neuron": 0.5}.__getitem__)


def test_additions():
    assert additions(LAYER, FIRING) == 10_000
    assert additions(CHAINED, FIRING) == additions(STEM, FIRING) == 0


def test_paper():
    assert paper(LAYER, FIRING) == pytest.approx((9_000, 92_000, 92_000))
    assert paper(CHAINED, FIRING) == pytest.approx((9_000, 92_000, 92_000))
    assert paper(STEM, FIRING) == pytest.approx((92_000, 92_000, 92_000))


def test_as_computed():
    assert as_computed(LAYER, FIRING) == pytest.approx((9_000, 92_000, 92_000))
    assert as_computed(CHAINED, FIRING) == pytest.approx((92_000, 92_000, 92_000))


def test_bit_aware():
    assert bit_aware(LAYER, FIRING) == pytest.approx((1_000, 4_600, 92_000))
    assert bit_aware(CHAINED, FIRING) == pytest.approx((92_000, 92_000, 92_000))


def test_float_weights_of_spikes_are_added_in_float32():
    layer = dataclasses.replace(LAYER, bits=32)
    assert bit_aware(layer, FIRING) == pytest.approx((9_000, 92_000, 92_000))


def test_with_memory():
    # Words of 32 bits. Weights: 200 of 4 bits = 25 from DRAM.
    # Spiking: 10,000 weights = 1,250; inputs of 4 slots = 125; sums read and written in 4 slots = 16,000.
    spiking = 1_000 + 25 * 640 + (1_250 + 125 + 16_000) * 5
    # Quantised ANN: 20,000 weights = 2,500; inputs of 3 bits = 93.75; sums = 2,000.
    quantized = 4_600 + 25 * 640 + (2_500 + 93.75 + 2_000) * 5
    # Float ANN: one word each.
    floats = 92_000 + 200 * 640 + (20_000 + 1_000 + 2_000) * 5
    assert with_memory(LAYER, FIRING) == pytest.approx((spiking, quantized, floats))
    # Real inputs are words, in both.
    real = 92_000 + 25 * 640 + (2_500 + 1_000 + 2_000) * 5
    assert with_memory(CHAINED, FIRING) == pytest.approx((real, real, floats))
    # Attention has no weights; it adds rows of 32-bit sums.
    spiking = 1_000 + (10_000 + 125 + 16_000) * 5
    assert with_memory(ATTENTION, FIRING).spiking == pytest.approx(spiking)
