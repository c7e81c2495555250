"""Detections in the pixels of padded arrays are scored as COCO scores them in those of the images."""

import json

import jax
import numpy as np
import pytest
from pycocotools.mask import decode

from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.paste import pasted
from qsdt_jax.evaluate.split import MASK, Scored, evaluate_split, over_devices
from qsdt_jax.tasks.average_precision import AveragePrecision, by_class, own_boxes, results
from tests.tasks.detections import NAMES, SIZES, detections_of, truth_of

TASK = AveragePrecision()


def scored(rows: int, order: list[int], perturbed: bool = False) -> Scored:
    """All images of the split in batches of so many, in an order, as a step on one device gives them."""
    total = len(SIZES)

    def batches():
        for start in range(0, total, rows):
            taken = order[start : start + rows]
            padding = rows - len(taken)
            yield detections_of(taken + taken[-1:] * padding, perturbed), np.arange(rows) < len(taken)

    def step(batch):
        (outputs, inputs), mask = batch
        return over_devices(TASK.score(outputs, inputs), mask.astype(np.int32))

    return evaluate_split(step, batches(), lambda total: total)


def test_all_objects_found_are_a_score_of_100():
    """In batches with padding, an image without objects and crowds that nobody finds among them."""
    total = scored(2, [3, 1, 0, 4, 2])
    assert sorted(total.rows["index"]) == list(range(5))
    assert TASK.summarize(total, truth_of()) == pytest.approx({m.name: 100.0 for m in TASK.metrics})
    table = by_class(total, truth_of())
    for column in table.values():
        assert column.shape == (len(NAMES),)
        np.testing.assert_allclose(column, [100, 100, np.nan])


def test_score_depends_neither_on_batches_nor_on_their_order():
    found = [
        TASK.summarize(scored(rows, order, perturbed=True), truth_of())
        for rows, order in ((1, [0, 1, 2, 3, 4]), (3, [4, 2, 0, 1, 3]))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert 0 < found[0]["bbox_map"] < found[0]["bbox_map50"] < 100
    assert found[0]["segm_map"] != found[0]["bbox_map"]


def test_some_images_are_scored_by_their_own_objects_alone():
    total = scored(1, [0, 1, 2, 3, 4])
    some = Scored(rows={name: rows[[1, 3]] for name, rows in total.rows.items()})
    assert TASK.summarize(some, truth_of())["bbox_map"] == pytest.approx(100)
    none = Scored(rows={name: rows[[2]] for name, rows in total.rows.items()})
    with pytest.raises(UserError, match="none of the 1 images has an object"):
        TASK.summarize(none, truth_of())
    with pytest.raises(UserError, match="has no `truth`"):
        TASK.summarize(total, None)


def test_an_image_counts_once():
    total = scored(1, [0, 1, 1, 3, 4])
    with pytest.raises(ValueError, match="scored twice"):
        TASK.summarize(total, truth_of())


def test_results_are_those_of_the_images_and_their_own_ids():
    truth, written = truth_of(), results(scored(2, [4, 0, 1, 2, 3]), truth_of())
    assert json.loads(json.dumps(written)) == written
    objects = [a for a in truth["annotations"] if not a["iscrowd"]]
    assert len(written) == len(objects)
    for one in objects:
        [found] = [
            f
            for f in written
            if f["image_id"] == one["image_id"]
            and f["category_id"] == one["category_id"]
            and np.allclose(f["bbox"], one["bbox"], atol=1e-3)
        ]
        x, y, width, height = one["bbox"]
        size = SIZES[[image["id"] for image in truth["images"]].index(one["image_id"])]
        box = np.array([x, y, x + width, y + height])
        # Boxes are rounded to 32 bits on the way, which decides of a pixel in a corner.
        assert np.sum(decode(found["segmentation"]) != pasted(np.ones((28, 28)), box, size)) <= 4


def test_boxes_are_clipped_to_the_image_before_they_are_divided():
    """An image of 10x30 pixels, shown as 16x47 in a larger array: both factors differ."""
    boxes = np.array([[[-3, -2, 50, 60], [4.7, 8, 23.5, 16]]], np.float32)
    found = own_boxes(boxes, np.array([[16, 47]]), np.array([[10, 30]]))
    np.testing.assert_allclose(found, [[[0, 0, 30, 10], [3, 5, 15, 10]]], rtol=1e-6)
    assert found.dtype == np.float32


def test_a_step_on_two_devices_gathers_the_same_rows():
    """As pmap sees it: each of two devices has two rows."""
    outputs, inputs = detections_of([0, 1, 3, 4])
    halves = jax.tree.map(lambda x: np.asarray(x).reshape(2, 2, *x.shape[1:]), (outputs, inputs))
    step = jax.vmap(
        lambda batch, mask: over_devices(TASK.score(*batch), mask), axis_name="devices", in_axes=(0, 0)
    )
    found = step(halves, np.ones((2, 2), np.int32))
    whole = TASK.score(outputs, inputs)
    for name, rows in whole.rows.items():
        np.testing.assert_array_equal(found.rows[name][1], rows)
    assert MASK in found.rows
