"""The energy of a detector: its region proposal network on every map, its heads for every region."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.deploy.agreement import detector_form
from qsdt_jax.deploy.fold import fold_detector
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.detection.inference import Settings
from qsdt_jax.energy.counted import counted, neurons_of
from qsdt_jax.energy.operations import layers_of
from qsdt_jax.energy.rates import measure_activity
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.split import Scored
from tests.deploy.nets import draw_images, draw_variables, tiny_detector

SETTINGS = Settings(anchor_scale=4.0, proposals=(24, 10), score_threshold=0.2, detections=6)
MODEL = tiny_detector(levels=2)


def test_heads_are_counted_for_each_region_and_the_rpn_for_each_map():
    detector = fold_detector(MODEL, draw_variables(MODEL))
    layers = {layer.name: layer for layer in layers_of(detector, (32, 48), SETTINGS)}
    # 3x3 convolutions of 6 channels on maps of 8x12, 4x6, 2x3, 1x2 and 1x1 pixels.
    pixels = {4: 96, 8: 24, 16: 6, 32: 2, 64: 1}
    for stride, count in pixels.items():
        layer = layers[f"rpn/conv/conv at stride {stride}"]
        assert (layer.macs, layer.weights, layer.stride) == (count * 9 * 36, 9 * 36, stride)
        assert layer.spikes == layer.entering == f"rpn/conv/neuron at stride {stride}"
    assert layers["box_head/fc1"].macs == 10 * 49 * 6 * 8 and layers["box_head/fc1"].weights == 49 * 6 * 8
    assert layers["mask_head/classifier"].macs == 6 * 28 * 28 * 6 * 2
    assert {layer.spikes for layer in layers.values()} - {None} <= set(neurons_of(detector))


@pytest.mark.slow
def test_counts_are_those_of_the_forms_and_regions_not_in_use_are_told():
    detector = fold_detector(MODEL, draw_variables(MODEL))
    images, sizes = draw_images(2, 32, 48, 3), np.array([[32, 48], [13, 40]], np.int32)
    form = detector_form(detector, IntegerArithmetic(), SETTINGS)
    objects, expected = form(images, sizes)
    batch = {"image": jnp.asarray(images), "size": jnp.asarray(sizes)}
    found, counts, _ = counted(detector, SETTINGS, IntegerArithmetic(), batch)
    assert list(counts) == neurons_of(detector) and len(counts) == len(expected)
    np.testing.assert_array_equal(counts["box_head/neuron3"].counts, expected["box_head/neuron3"])
    np.testing.assert_array_equal(counts["rpn/neuron at stride 8"].counts, expected["rpn/neuron, call 1"])
    inside = np.asarray(counts["rpn/neuron at stride 8"].valid)
    assert inside[0].all() and inside[1].sum() == 2 * 5
    used = np.asarray(counts["mask_head/neuron2"].valid).reshape(2, 6)
    np.testing.assert_array_equal(used, np.asarray(objects["categories"]) >= 0)
    np.testing.assert_array_equal(found["category"], objects["categories"])


@pytest.mark.slow
def test_a_detector_that_finds_nothing_has_no_rates():
    detector = fold_detector(MODEL, draw_variables(MODEL))
    batch = {"image": draw_images(1, 32, 48, 3), "size": np.array([[32, 48]], np.int32), "mask": np.ones(1)}
    nothing: Any = SimpleNamespace(score=lambda outputs, batch: Scored({}, {}), summarize=lambda *_: {})
    settings = dataclasses.replace(SETTINGS, score_threshold=1.0)
    with pytest.raises(UserError, match="found none in 1 images, so mask_head/conv0/neuron has no"):
        measure_activity(detector, [batch], nothing, settings=settings)
