"""The published detector's own numbers, in float64 (tests/golden/detector.py)."""

from typing import Any

import jax
import numpy as np
import pytest

from qsdt_jax.interop import from_torch, to_torch
from qsdt_jax.interop.architecture import class_count
from qsdt_jax.interop.published import differences
from tests.golden.detector import GAINS, SEED, detector, digest, golden, images
from tests.golden.recipe import draw_weights

TOLERANCE = 1e-10  # Relative to the largest entry of each array.
TAPS = ("stage1", "stage2", "stage3", "stage4")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def weights():
    return draw_weights(detector("published_sr0"), SEED)


def assert_met(found, expected, name, scale=None, tolerance=TOLERANCE):
    scale = np.abs(expected).max() if scale is None else scale
    assert np.shape(found) == np.shape(expected), name
    deviation = np.abs(np.asarray(found) - expected).max() / scale
    assert deviation <= tolerance, f"{name}: {deviation}"


def assert_digests_met(maps: dict[str, Any]):
    for name, found in maps.items():
        found = np.moveaxis(np.asarray(found), 3, 1) if np.ndim(found) == 4 else found
        assert_met(digest(name, np.asarray(found)), golden()[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("variant", GAINS)
def test_features_pyramid_and_proposals(weights, variant):
    """In training, with batch statistics."""
    model = detector(variant)

    def run(variables, x):
        seen = {"capture_intermediates": lambda _, method: method in ("features", "pyramid")}
        (scores, deltas), seen = model.apply(
            variables, x, True, mutable=["batch_stats", "intermediates"], **seen
        )
        return scores, deltas, seen["intermediates"]

    scores, deltas, seen = jax.jit(run)(from_torch(model, weights), images())
    (features,), (pyramid,) = seen["features"], seen["pyramid"]
    train = f"{variant}/train"
    assert_digests_met(
        {
            **{f"train/feature{i}": features[stage] for i, stage in enumerate(TAPS)},
            **{f"{train}/neck{i}": x for i, x in enumerate(pyramid)},
            **{f"{train}/rpn_score{i}": x for i, x in enumerate(scores)},
            **{f"{train}/rpn_delta{i}": x.reshape(*x.shape[:3], -1) for i, x in enumerate(deltas)},
        }
    )


def test_names_are_the_published_ones_and_go_both_ways(weights):
    assert {name.split(".")[0] for name in weights} == {"backbone", "neck", "rpn_head", "roi_head"}
    assert weights["neck.lateral_convs.3.1.0.conv.weight"].shape == (16, 64, 1, 1)
    assert weights["roi_head.bbox_head.shared_fcs.0.1.0.weight"].shape == (24, 784)
    assert weights["roi_head.bbox_head.fc_reg.bias"].shape == (12,)
    assert weights["roi_head.mask_head.upsample.1.0.weight"].shape == (16, 16, 2, 2)
    again = to_torch(from_torch(detector("published_sr0"), weights))
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array)
    assert class_count("the file", weights) == 3


def test_what_the_file_does_not_say_is_told():
    assert differences(detector("published_sr0")) == []
    model = detector("one_neuron_sr2").clone(geometry="true")
    stride, gain = differences(model)
    assert stride.startswith("neck.fpn_convs.3") and gain.endswith("neuron_input_gain=0.25, here it is 1.0")
