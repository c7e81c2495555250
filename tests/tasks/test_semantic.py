"""The segmentation task: its loss and its score, against the network's logits pixel by pixel."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.classes import numbers
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.split import Scored
from qsdt_jax.tasks.mean_iou import MeanIoU
from qsdt_jax.tasks.semantic import class_count
from qsdt_jax.train.step import evaluation_step
from tests.configs.tiny_seg import get_config
from tests.evaluate.test_class_map import interpolated

CLASSES = 3
ROOT = Path(__file__).parents[2]


@functools.cache
def case():
    """A task, variables, and an evaluation batch of three images, of which the last is padding."""
    task = build_task(get_config(), numbers(CLASSES))
    variables = jax.jit(task.init)(jax.random.key(0))
    generator = np.random.default_rng(0)
    batch = {
        "image": generator.standard_normal((3, 32, 48, 3)).astype(np.float32),
        "size": np.array([[32, 40], [19, 48], [32, 48]], np.int32),
        "annotation": generator.choice(np.array([0, 1, 2, 255], np.uint8), (3, 64, 96)),
        "annotation_size": np.array([[61, 80], [21, 53], [64, 96]], np.int32),
        "mask": np.array([1, 1, 0], np.int32),
    }
    logits = jax.jit(task.outputs)(variables, batch)
    return task, variables, batch, np.asarray(logits)


@pytest.mark.slow
def test_every_pixel_of_every_image_counts_once_at_its_own_size():
    task, variables, batch, logits = case()
    found = jax.jit(evaluation_step, static_argnames="task")(variables, batch, task=task)
    confusion = np.zeros((CLASSES, CLASSES), int)
    doubtful = 0
    for i in range(2):
        (h, w), (height, width) = batch["size"][i], batch["annotation_size"][i]
        valid = logits[i, : -(-h // 2), : -(-w // 2)].astype(np.float64)
        scores = interpolated(interpolated(valid, (h, w)), (height, width))
        ordered = np.sort(scores, axis=-1)
        doubtful += int(np.sum(ordered[..., -1] - ordered[..., -2] < 1e-6))
        for label, best in zip(
            batch["annotation"][i, :height, :width].flat, scores.argmax(-1).flat, strict=True
        ):
            if label < CLASSES:
                confusion[label, best] += 1
    assert np.abs(np.asarray(found.sums["confusion"]) - confusion).sum() <= 2 * doubtful
    assert found.sums["confusion"].sum() == confusion.sum() and np.all(confusion.sum(0) > 0)
    metrics = task.summarize(found._replace(sums=jax.device_get(found.sums)), None)
    assert metrics["aacc"] == pytest.approx(100 * np.trace(confusion) / confusion.sum(), abs=0.1)


@pytest.mark.slow
def test_an_image_without_sizes_of_its_annotation_is_scored_as_the_network_saw_it():
    task, variables, batch, _ = case()
    small = {**batch, "annotation": batch["annotation"][:, :32, :48]}
    del small["annotation_size"]
    score = jax.jit(evaluation_step, static_argnames="task")
    same = {**small, "annotation_size": small["size"]}
    found, expected = (np.asarray(score(variables, b, task=task).sums["confusion"]) for b in (small, same))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_loss_is_that_of_labelled_pixels_alone():
    """An image that is wholly ignored moves no weight through the loss, and the mean is over all pixels."""
    task, variables, batch, _ = case()
    annotation = np.array(batch["annotation"][:2, :32, :48])
    annotation[1] = 255
    inputs = {"image": batch["image"][:2], "size": batch["size"][:2], "annotation": annotation}
    loss, (statistics, metrics) = jax.jit(task.loss)(variables, inputs, jax.random.key(1))
    assert np.isfinite(loss) and metrics == {} and statistics.keys() == variables["batch_stats"].keys()
    nothing = {**inputs, "annotation": np.full_like(annotation, 255)}
    assert float(jax.jit(task.loss)(variables, nothing, jax.random.key(1))[0]) == 0


def test_a_split_without_labelled_pixels():
    with pytest.raises(UserError, match="no pixel of the split is labelled"):
        MeanIoU().summarize(Scored({"confusion": np.zeros((3, 3), np.int64)}), None)


def test_number_of_classes():
    _, variables, _, _ = case()
    assert class_count(variables) == CLASSES
    assert class_count({"params": {"head": {}}}) is None


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"model.distillation_head": True}, "only a classifier has such a head"),
        ({"model.fpn_channels": 0}, "fpn_channels must be at least 1, got 0"),
        ({"model.neuron_input_gain": 0.0}, "neuron_input_gain must be positive"),
        ({"model.attention_tokens": -1}, "attention_tokens must not be negative"),
    ],
)
def test_values_out_of_range(overrides, line):
    config = get_config()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=line):
        build_task(config, numbers(CLASSES))


def test_data_without_classes():
    with pytest.raises(UserError, match="'semantic_segmentation' needs data with classes"):
        build_task(get_config(), None)


def test_a_device_scores_its_own_images_alone():
    """Over two devices the counts alone are exchanged, and they are those of one device."""
    command = [sys.executable, "-m", "tests.tasks.one_reduction"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"devices": 2, "collectives": ["all-reduce"], "same": True}
