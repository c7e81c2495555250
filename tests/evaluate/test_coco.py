"""COCO's numbers against stored ones of pycocotools, and results that its own reader takes."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as run_length
from pycocotools.coco import COCO

from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.coco import NUMBERS, Truth, result, run_lengths, scores
from qsdt_jax.evaluate.paste import Part, pasted

GOLDEN = Path(__file__).parents[1] / "golden"
DATASET, FOUND, STORED = (
    json.loads((GOLDEN / f"coco_{name}.json").read_text()) for name in ("gt", "dets", "results")
)
TRUTH = Truth(DATASET)


@pytest.mark.parametrize("of", ["bbox", "segm"])
def test_stored_numbers(of, capsys):
    before = json.dumps([DATASET, FOUND])
    found = scores(TRUTH, FOUND, of)
    assert STORED["order"] == list(NUMBERS) == list(found.numbers)
    np.testing.assert_allclose(list(found.numbers.values()), STORED[of]["stats"], rtol=0, atol=1e-12)
    by_category = [STORED[of]["per_category_AP"][str(number)] for number in TRUTH.category_ids]
    np.testing.assert_allclose(found.ap, np.array(by_category, float), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.nanmean(found.ap50), found.numbers["AP50"], rtol=0, atol=1e-12)
    assert json.dumps([DATASET, FOUND]) == before
    assert capsys.readouterr().out == ""


def test_nothing_found_is_a_score():
    found = scores(TRUTH, [], "segm")
    assert found.numbers["AP"] == found.numbers["AR100"] == 0
    assert np.isnan(found.ap[-1]) and not np.nansum(found.ap)


def perfect() -> list[dict]:
    """Each object found once, crowds not."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO(str(GOLDEN / "coco_gt.json"))
    return [
        {**a, "score": 0.5, "segmentation": index.annToRLE(a)}
        for a in index.anns.values()
        if not a["iscrowd"]
    ]


def test_ids_of_annotations_play_no_role():
    """pycocotools itself never matches the object number 0."""
    dataset = {**DATASET, "annotations": [{**a, "id": a["id"] - 1} for a in DATASET["annotations"]]}
    for of in ("bbox", "segm"):
        assert scores(Truth(dataset), perfect(), of).numbers["AP"] == pytest.approx(1, abs=1e-12)


def test_annotations_of_boxes_alone_cover_them():
    keys = ("id", "image_id", "category_id", "bbox")
    plain = [{k: a[k] for k in keys} for a in DATASET["annotations"] if not a["iscrowd"]]
    boxed = [{**f, "segmentation": None, "score": 1.0} for f in plain]
    truth = Truth({**DATASET, "annotations": plain})
    assert scores(truth, boxed, "bbox").numbers["AP"] == pytest.approx(1, abs=1e-12)
    sizes = dict(zip(TRUTH.image_ids, TRUTH.sizes, strict=True))
    corners = [np.array([x, y, x + w, y + h]) for x, y, w, h in (f["bbox"] for f in plain)]
    masks = [
        result(f["image_id"], f["category_id"], box, 1.0, np.ones((28, 28)), sizes[f["image_id"]])
        for f, box in zip(plain, corners, strict=True)
    ]
    assert scores(truth, masks, "segm").numbers["AP50"] == pytest.approx(1, abs=1e-12)


def test_only_the_images_asked_for_count():
    some = TRUTH.image_ids[:4]
    dataset = {
        **DATASET,
        "images": DATASET["images"][:4],
        "annotations": [a for a in DATASET["annotations"] if a["image_id"] in some],
    }
    alone = scores(Truth(dataset), [f for f in FOUND if f["image_id"] in some], "bbox")
    assert scores(TRUTH, FOUND, "bbox", some).numbers == pytest.approx(alone.numbers, nan_ok=True)
    assert alone.numbers["AP"] != STORED["bbox"]["stats"][0]


def test_images_without_objects_are_told():
    crowds = {**DATASET, "annotations": [a for a in DATASET["annotations"] if a["iscrowd"]]}
    with pytest.raises(UserError, match="none of the 12 images has an object"):
        scores(Truth(crowds), FOUND, "bbox")


def test_results_are_read_by_pycocotools(tmp_path):
    """Boxes, masks at the image's own size, scores and ids come back."""
    generator, truth = np.random.default_rng(0), TRUTH
    size, box, mask = truth.sizes[2], np.array([10.5, 20.25, 90, 61.5]), generator.uniform(size=(28, 28))
    written = [result(truth.image_ids[2], truth.category_ids[1], box, np.float32(0.75), mask, size)]
    (tmp_path / "found.json").write_text(json.dumps(written))
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO(str(GOLDEN / "coco_gt.json")).loadRes(str(tmp_path / "found.json"))
    [found] = index.loadAnns(index.getAnnIds())
    assert (found["image_id"], found["category_id"]) == (truth.image_ids[2], 3)
    assert found["score"] == 0.75 and found["bbox"] == [10.5, 20.25, 79.5, 41.25]
    np.testing.assert_array_equal(index.annToMask(found), pasted(mask, box, size))


@pytest.mark.parametrize("size", [(7, 9), (1, 6), (6, 1)])
def test_run_lengths_of_a_part_are_those_of_the_image(size):
    """Also of one that touches edges, of the whole image, and of nothing."""
    generator = np.random.default_rng(0)
    for trial in range(200):
        (top, bottom), (left, right) = (np.sort(generator.integers(0, side + 1, 2)) for side in size)
        if trial % 4 == 0:
            top, bottom = 0, size[0]
        if trial % 8 == 0:
            left, right = 0, size[1]
        part = generator.uniform(size=(bottom - top, right - left)) < (0.5, 0.9, 1.1, -1)[trial // 4 % 4]
        whole = np.zeros(size, np.uint8, order="F")
        whole[top:bottom, left:right] = part
        expected = run_length.encode(whole)
        found = run_lengths(Part(part, int(top), int(left)), size)
        assert found == {"size": expected["size"], "counts": expected["counts"].decode()}
