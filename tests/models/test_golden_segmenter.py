"""The published segmentor's own numbers, in float64 (tests/golden/segmentor.py)."""

from typing import Any

import jax
import numpy as np
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.interop import from_torch, to_torch
from qsdt_jax.interop.architecture import class_count, fields_of
from qsdt_jax.layers.upsample import bilinear_upsample
from qsdt_jax.losses.segmentation import pixel_cross_entropy
from tests.golden.recipe import draw_weights
from tests.golden.segmentor import GAINS, SEED, digest, golden, images, row, segmentor

TOLERANCE = 1e-10  # Relative to the largest entry of each array.
SEEN: dict[str, Any] = {
    "capture_intermediates": lambda _, method: method in ("features", "pyramid"),
    "mutable": ["intermediates"],
}
# Tensors before a batch norm, which takes out shifts and scales: their gradients are rounding noise.
BEFORE_NORM = ("_conv.bias", ".body.2.2.bias", ".body.2.2.weight", *(f"convs.{i}.0.bias" for i in range(4)))
STAGES = ("stem", "stage1", "stage2", "stage4")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def weights():
    return draw_weights(segmentor("published"), SEED)


def assert_met(found, expected, name, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    assert np.shape(found) == np.shape(expected), name
    deviation = np.abs(np.asarray(found) - expected).max() / scale
    assert deviation <= TOLERANCE, f"{name}: {deviation}"


def assert_maps_met(kind: str, variant: str, seen: Any, logits: Any):
    (features,), (pyramid,) = seen["features"], seen["pyramid"]
    maps = {
        **{f"{kind}/feature{i}": features[stage] for i, stage in enumerate(STAGES)},
        **{f"{variant}/{kind}/neck{i}": x for i, x in enumerate(pyramid)},
        f"{variant}/{kind}/logits": logits,
        f"{variant}/{kind}/full": bilinear_upsample(logits),
    }
    for name, found in maps.items():
        assert_met(digest(name, np.asarray(found).transpose(0, 3, 1, 2)), golden()[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("variant", GAINS)
def test_evaluation_forward(weights, variant):
    model = segmentor(variant)
    variables = from_torch(model, weights)

    logits, maps = jax.jit(lambda v, x: model.apply(v, x, **SEEN))(variables, images())
    assert_maps_met("eval", variant, maps["intermediates"], logits)


@pytest.mark.slow
@pytest.mark.parametrize("variant", GAINS)
def test_training_forward_every_gradient_and_statistic(weights, variant):
    model = segmentor(variant)
    variables, labels = from_torch(model, weights), golden()["y"]

    def loss(params):
        seen: dict[str, Any] = {**SEEN, "mutable": ["batch_stats", "intermediates"]}
        logits, updates = model.apply({**variables, "params": params}, images(), True, **seen)
        means = [pixel_cross_entropy(logits, labels, average) for average in ("all", "labelled")]
        return means[0], (means, logits, updates)

    (_, (means, logits, updates)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"]
    )
    assert_met(means, golden()[f"{variant}/train/loss"], "loss")
    assert_maps_met("train", variant, updates["intermediates"], logits)
    found = to_torch({"params": grads, "batch_stats": updates["batch_stats"]})
    names = {
        "after": sorted(name for name in found if ".running_" in name),
        "grad": sorted(name for name in found if ".running_" not in name),
    }
    assert found.keys() == weights.keys()
    for kind, of_kind in names.items():
        expected = golden()[f"{variant}/train/{kind}"]
        rows = np.stack([row(name, found[name]) for name in of_kind])
        largest = np.abs(expected[:, :4]).max()
        for name, met, wanted in zip(of_kind, rows, expected, strict=True):
            assert_met(met, wanted, f"{kind} of {name}", largest if name.endswith(BEFORE_NORM) else None)


def test_names_are_the_published_ones_and_go_both_ways(weights):
    heads = {name.split(".")[0] for name in weights}
    assert heads == {"backbone", "neck", "decode_head"}
    # The third unit of the last branch: an enlargement stands between two units in the published list.
    assert weights["decode_head.scale_heads.3.4.1.weight"].shape == (8, 8, 3, 3)
    assert weights["neck.lateral_convs.3.0.weight"].shape == (8, 64, 1, 1)
    assert weights["decode_head.conv_seg.weight"].shape == (5, 8, 1, 1)
    counted = {**weights, "neck.fpn_convs.1.1.num_batches_tracked": np.array(7)}
    again = to_torch(from_torch(segmentor("published"), counted))
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array)


def test_the_number_of_classes_is_read_off_the_names(weights):
    assert class_count("the file", weights) == 5
    assert fields_of("the file", weights) == {
        "channels": (16, 32, 48, 64),
        "depth": 4,
        "mlp_ratio": 4,
        "in_channels": 3,
        "fpn_channels": 8,
    }
    without = {name: array for name, array in weights.items() if name != "neck.lateral_convs.0.0.weight"}
    with pytest.raises(
        UserError, match=r"has no tensor neck\.lateral_convs\.0\.0\.weight; .* of another seg"
    ):
        fields_of("the file", without)
