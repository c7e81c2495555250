"""The published detector from images to gradients and detections, in float64 (tests/golden/detector.py)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection import regions, targets
from qsdt_jax.detection.matching import NEGATIVE
from qsdt_jax.evaluate.paste import pasted
from qsdt_jax.interop import from_torch, to_torch
from qsdt_jax.tasks import detection
from qsdt_jax.tasks.detection import Detection
from tests.golden.detector import SEED, detector, golden, images, row, thinned
from tests.golden.recipe import draw_weights
from tests.models.test_golden_detector import assert_digests_met, assert_met

ANCHORS = 3 * (24 * 32 + 12 * 16 + 2 * 6 * 8 + 3 * 4)
OBJECTS = 4
CANDIDATES = OBJECTS + 1000
# Tensors before a batch norm, which takes out shifts and scales: their gradients are rounding noise.
BEFORE_NORM = ("_conv.bias", ".body.2.2.bias", ".body.2.2.weight")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def nothing_random(monkeypatch):
    """Every candidate is taken, in the order of their index, the positive ones first."""

    def in_order(_key, matched, number, _positives):
        group = jnp.where(matched >= 0, 0, jnp.where(matched == NEGATIVE, 1, 2))
        indices = jnp.argsort(group, stable=True)[:number]
        return indices.astype(jnp.int32), (group[indices] < 2).astype(jnp.float32)

    monkeypatch.setattr(targets, "sample", in_order)


def task_of(variant: str) -> Detection:
    return Detection(
        model=detector(variant),
        image_shape=(96, 128, 3),
        class_names=("a", "b", "c"),
        objects=OBJECTS,
        rpn_samples=2 * ANCHORS,
        roi_samples=CANDIDATES,
        resolution=1e-10,
    )


def batch_of(variant: str) -> dict[str, Any]:
    """In the place of masks the targets of the mask head: the published ones are of bitmaps of the images."""
    boxes, category = np.zeros((2, OBJECTS, 4)), np.full((2, OBJECTS), -1)
    for i in range(2):
        own = golden()[f"gt{i}/labels"]
        boxes[i, : len(own)], category[i, : len(own)] = golden()[f"gt{i}/boxes"], own
    masks = np.zeros((2, CANDIDATES // 4, 28, 28))
    if variant == "one_neuron_sr2":
        counts = [int(golden()[f"one_neuron_sr2/train/roi_positives{i}"][0]) for i in range(2)]
        bits = np.unpackbits(golden()["one_neuron_sr2/train/mask_targets"]).reshape(-1, 28, 28)
        masks[0, : counts[0]], masks[1, : counts[1]] = bits[: counts[0]], bits[counts[0] :]
    return {
        "image": images(),
        "size": golden()["img_shape"],
        "index": np.arange(2),
        "boxes": boxes,
        "category": category,
        "masks": masks,
    }


@pytest.fixture
def seen(monkeypatch) -> dict[str, list[Any]]:
    """Arguments and result of each call of what the task calls for whole batches."""
    found: dict[str, list[Any]] = {}
    places = {"box_losses": detection, "mask_loss": detection, "roi_align": regions}
    for name, module in places.items():
        function = getattr(module, name)

        def record(*args, name=name, function=function):
            result = function(*args)
            found.setdefault(name, []).append((args, result))
            return result

        monkeypatch.setattr(module, name, record)
    monkeypatch.setattr(detection, "mask_targets", lambda masks, *_: masks)
    return found


def variables_of(variant: str) -> dict[str, Any]:
    return from_torch(detector(variant), draw_weights(detector(variant), SEED))


@pytest.mark.slow
def test_losses_of_published_proposals(seen):
    task, batch = task_of("published_sr0"), batch_of("published_sr0")

    @jax.jit
    def run(variables):
        _, (_, losses) = task.loss(variables, batch, jax.random.key(0))
        return losses["loss_rpn_score"], losses["loss_rpn_box"]  # No more is compiled.

    found = run(variables_of("published_sr0"))
    assert_met(found, golden()["published_sr0/train/loss_rpn_levels"].sum(1), "losses", tolerance=1e-9)


@pytest.mark.slow
def test_regions_losses_every_gradient_and_statistic(seen):
    task, batch, variables = (
        task_of("one_neuron_sr2"),
        batch_of("one_neuron_sr2"),
        variables_of("one_neuron_sr2"),
    )

    def loss(params):
        seen.clear()
        value, (statistics, losses) = task.loss({**variables, "params": params}, batch, jax.random.key(0))
        return value, (statistics, losses, dict(seen))

    (_, (statistics, losses, calls)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables["params"]
    )
    expected = {
        name.removeprefix("one_neuron_sr2/train/"): value
        for name, value in golden().items()
        if name.startswith("one_neuron_sr2/train/")
    }
    names = ("loss_rpn_score", "loss_rpn_box", "loss_class", "loss_box", "loss_mask")
    assert_met([losses[name] for name in names], expected["losses"], "losses", tolerance=1e-9)

    [((_, rois, _), box_features), (_, mask_features)] = calls["roi_align"]
    [((scores, deltas, category, weights, _), _)], [((logits, _, positive, _), _)] = (
        calls["box_losses"],
        calls["mask_loss"],
    )
    for i in range(2):
        count = int(np.sum(weights[i]))
        assert count == len(expected[f"roi_labels{i}"])
        assert int(np.sum(positive[i])) == expected[f"roi_positives{i}"][0]
        assert_met(thinned(np.asarray(rois[i, :count])), expected[f"rois{i}"], f"rois{i}")
        np.testing.assert_array_equal(category[i, :count], expected[f"roi_labels{i}"])
    sampled, used = np.asarray(weights) > 0, np.asarray(positive) > 0
    prefix = "one_neuron_sr2/train"
    assert_digests_met(
        {
            f"{prefix}/box_features": box_features[sampled],
            f"{prefix}/box_scores": scores[sampled],
            f"{prefix}/box_deltas": deltas[sampled].reshape(sampled.sum(), -1),
            f"{prefix}/mask_features": mask_features[used],
            f"{prefix}/mask_logits": logits[used],
        }
    )

    found = to_torch({"params": grads, "batch_stats": statistics})
    after = {name: array for name, array in found.items() if ".running_" in name}
    of_loss = {name: array for name, array in found.items() if name not in after}
    for kind, arrays in (("train/after", after), (f"{prefix}/grad", of_loss)):
        rows = golden()[kind]
        largest = np.abs(rows[:, :4]).max()
        for name, wanted in zip(sorted(arrays), rows, strict=True):
            scale = largest if name.endswith(BEFORE_NORM) else None
            assert_met(row(name, arrays[name]), wanted, f"{kind} of {name}", scale, tolerance=1e-9)


@pytest.mark.slow
def test_detections_and_their_masks(seen):
    task, variables = task_of("one_neuron_sr2"), variables_of("one_neuron_sr2")
    batch = {"image": images(), "size": golden()["img_shape"]}

    def run(variables):
        seen.clear()
        return task.outputs(variables, batch), dict(seen)

    found, calls = jax.jit(run)(variables)
    [((maps, proposals, _), _), _] = calls["roi_align"]
    assert_digests_met({f"one_neuron_sr2/eval/neck{i}": x for i, x in enumerate(maps)})
    for i in range(2):
        expected = golden()[f"one_neuron_sr2/eval/proposals{i}"][:, :4]
        own = np.asarray(proposals[i])
        own = own[np.any(own != 0, axis=1)]
        assert_met(thinned(own), expected, f"proposals{i}")
        boxes = np.asarray(found["boxes"][i]) / 1.25
        columns = [boxes, np.asarray(found["score"][i])[:, None], np.asarray(found["category"][i])[:, None]]
        assert_met(
            np.concatenate(columns, 1), golden()[f"one_neuron_sr2/eval/detections{i}"], f"detections{i}"
        )
        shape = tuple(golden()["ori_shape"][i])
        masks = np.stack(
            [pasted(mask, box, shape) for mask, box in zip(found["mask"][i], boxes, strict=True)]
        )
        np.testing.assert_array_equal(masks.sum((1, 2)), golden()[f"one_neuron_sr2/eval/mask_areas{i}"])
        packed = [np.packbits(mask) for mask in masks[:20]]
        np.testing.assert_array_equal(packed, golden()[f"one_neuron_sr2/eval/masks{i}"])
