"""Confusion matrix and IoU against mmsegmentation's numbers (tests/golden/miou.npz) and loops."""

from pathlib import Path

import jax
import numpy as np
import pytest

from qsdt_jax.evaluate.iou import (
    accuracy,
    confusion_matrix,
    intersection_over_union,
    mean_of_present,
    pixel_accuracy,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "miou.npz")
CLASSES = 7


def total() -> np.ndarray:
    count = jax.jit(confusion_matrix, static_argnames="num_classes")
    parts = []
    for i in range(3):
        labels, classes = GOLDEN[f"label{i}"], GOLDEN[f"prediction{i}"].astype(np.int32)
        parts.append(np.asarray(count(labels, classes, np.ones(labels.shape, bool), num_classes=CLASSES)))
    return np.sum(parts, axis=0)


def test_the_numbers_of_mmsegmentation():
    confusion = total()
    np.testing.assert_array_equal(confusion, GOLDEN["confusion"])
    np.testing.assert_allclose(intersection_over_union(confusion), GOLDEN["iou"], rtol=1e-12)
    np.testing.assert_allclose(accuracy(confusion), GOLDEN["acc"], rtol=1e-12)
    means = {
        "mIoU": mean_of_present(intersection_over_union(confusion)),
        "mAcc": mean_of_present(accuracy(confusion)),
        "aAcc": pixel_accuracy(confusion),
    }
    assert means == {name: pytest.approx(float(GOLDEN[name]), rel=1e-12) for name in means}


def test_only_valid_and_labelled_pixels_count():
    """By a loop; 255 and 65535 are ignored, and so is every other index beyond the classes."""
    generator = np.random.default_rng(0)
    labels = generator.choice(np.array([0, 1, 2, 3, 200, 65535], np.uint16), (9, 11))
    classes, valid = generator.integers(0, 3, (9, 11)).astype(np.int32), generator.random((9, 11)) < 0.7
    expected = np.zeros((3, 3), int)
    for label, found, counts in zip(labels.flat, classes.flat, valid.flat, strict=True):
        if counts and label < 3:
            expected[label, found] += 1
    np.testing.assert_array_equal(confusion_matrix(labels, classes, valid, 3), expected)


def test_nothing_labelled():
    nothing = np.zeros((3, 3), int)
    assert np.isnan(pixel_accuracy(nothing)) and np.isnan(mean_of_present(intersection_over_union(nothing)))
