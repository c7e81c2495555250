"""A detector in all deployed forms: every count, box, score, category and mask, bit for bit."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.deploy import agreement
from qsdt_jax.deploy.detector import FoldedDetector, check_detector
from qsdt_jax.deploy.fold import fold_detector
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.mistakes import SlotsAlone, bias_in_every_slot
from qsdt_jax.deploy.program import DepthToSpace, Subsample
from qsdt_jax.deploy.spike_driven import SpikeArithmetic
from qsdt_jax.detection.inference import Settings
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import BitsRule
from tests.deploy.nets import draw_images, draw_variables, tiny_detector

# All that a detector can have; one with T = 1 is exported in tests/launch/test_export_detection.py.
NET: dict[str, Any] = {
    "levels": 2,
    "timesteps": 2,
    "neuron_input_gain": 0.25,
    "geometry": "published",
    "attention_tokens": 10,
    "bits_rules": (BitsRule(pattern=r"(rpn|box_head)/.*", bits=2), BitsRule(pattern=".*/conv1", bits=8)),
}
# Two images, of which a row of tokens and half of a token are padding, and a row of padding in the batch.
SIZES = np.array([[32, 48], [13, 40], [0, 0]], np.int32)
BATCH = {"image": draw_images(3, 32, 48, 3), "size": SIZES, "mask": np.array([1, 1, 0])}


SETTINGS = Settings(
    anchor_scale=4.0, geometry="published", proposals=(24, 10), score_threshold=0.2, detections=6
)


@functools.cache
def folded():
    model = tiny_detector(**NET)
    variables = draw_variables(model)
    return model, variables, fold_detector(model, variables)


@pytest.mark.slow
def test_forms_agree_on_every_object():
    model, variables, detector = folded()
    check_detector(detector, (32, 48))
    forms = {
        "training form": agreement.detector_training_form(model, variables, SETTINGS),
        "integer form": agreement.detector_form(detector, IntegerArithmetic(), SETTINGS),
        "spike-driven form": agreement.detector_form(detector, SpikeArithmetic(2), SETTINGS),
    }
    found = agreement.compare(forms, [BATCH])
    for form, comparison in found.items():
        assert (comparison.different_counts, comparison.different_outputs) == ({}, {}), form
        assert comparison.outputs == {
            "coordinates of boxes": 2 * 6 * 4,
            "scores": 2 * 6,
            "categories": 2 * 6,
            "mask probabilities": 2 * 6 * 28 * 28,
        }
        assert comparison.counts > 3e4
    outputs, counts = forms["training form"](BATCH["image"], SIZES)
    assert np.all(np.asarray(outputs["categories"])[:2].max(1) >= 0)
    assert np.all(np.asarray(outputs["coordinates of boxes"])[1, :, 3] <= 13)
    assert {"rpn/conv/neuron, call 0", "rpn/neuron, call 4", "box_head/neuron3"} <= counts.keys()
    for neuron, c in counts.items():
        assert 0.01 < np.mean(c) / 2 < 0.99 or "call" in neuron, neuron


def test_parts_are_kept_once():
    _, variables, detector = folded()
    kernels = [x for path, x in jax.tree_util.tree_leaves_with_path(variables) if "'kernel'" in str(path)]
    assert sum(layer.weights.size for layer in detector.layers) == sum(kernel.size for kernel in kernels)
    assert [len(part.outputs) for part in detector.parts.values()] == [5, 2, 2, 1]
    assert (detector.num_classes, detector.in_channels, detector.bits) == (2, 3, (2, 4, 8))
    assert [type(step) for step in detector.steps if isinstance(step, DepthToSpace | Subsample)] == [
        Subsample,
        DepthToSpace,
    ]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"final_neuron": False}, "class and box of this detector take real values (final_neuron=False)"),
        (
            {"bits_rules": (BitsRule(pattern="rpn/.*", bits=32),)},
            "rpn/conv/conv, rpn/delta, rpn/score have float weights (32 bits by bits_rules)",
        ),
    ],
)
def test_what_is_not_spike_driven_is_told(fields, told):
    model = tiny_detector(**fields)
    with pytest.raises(UserError, match=re.escape(told)):
        fold_detector(model, draw_variables(model))


def test_parts_that_do_not_fit_are_told():
    _, _, detector = folded()
    crossed = detector.rpn.replace(outputs=(("score", "rpn/delta"), ("delta", "rpn/delta")))
    with pytest.raises(UserError, match=r"its rpn gives score of .* 12 channels; expected 3 channels"):
        check_detector(detector.replace(rpn=crossed), (32, 48))


@pytest.mark.slow
def test_mistakes_change_what_is_found():
    """By how much: numbers of counts, boxes and scores that differ from the network that was trained."""
    _, _, detector = folded()

    def form(detector: FoldedDetector, arithmetic):
        return agreement.detector_form(detector, arithmetic, SETTINGS)

    found = agreement.compare(
        {
            "spike-driven form": form(detector, SpikeArithmetic(2)),
            "attention slot by slot": form(detector, SlotsAlone(2)),
            "bias in every slot": form(bias_in_every_slot(detector), SpikeArithmetic(2)),
        },
        [BATCH],
    )
    for mistake, comparison in found.items():
        share = sum(comparison.different_counts.values()) / comparison.counts
        objects = {k: comparison.different_outputs.get(k, 0) / n for k, n in comparison.outputs.items()}
        print(f"{mistake}: {share:.1%} of the counts, {objects}")
        assert share > 0.02 and objects["scores"] > 0.2 and objects["coordinates of boxes"] > 0.2, mistake
    alone = found["attention slot by slot"].different_counts
    assert not any(
        neuron.startswith(("downsample1", "downsample2", "conv")) for neuron in alone
    )  # Before attention.
    assert jnp.any(detector.pyramid.layers[1].shift != 0)
