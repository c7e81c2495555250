"""Masks of COCO: golden bitmaps of pycocotools, and what is refused or of no use."""

import json
from pathlib import Path

import numpy as np
import pytest

from qsdt_jax.data.dense.coco_masks import (
    UnusableMask,
    area,
    as_mask,
    as_segmentation,
    bitmaps,
    encoded,
    rectangle,
    run_lengths,
)
from qsdt_jax.errors import UserError
from tests.data.dense.coco_files import code

GOLDEN = Path(__file__).parents[2] / "golden"
SIZE = (50, 64)


def golden():
    content = json.loads((GOLDEN / "segmentations.json").read_text())
    assert (content["height"], content["width"]) == SIZE
    return content["segmentations"], np.load(GOLDEN / "masks.npz")["bitmaps"].astype(bool)


def test_golden_segmentations():
    entries, expected = golden()
    masks = [as_mask(entry["segmentation"], SIZE) for entry in entries]
    found = bitmaps(masks, SIZE)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)
    assert [area(mask, SIZE) for mask in masks] == [entry["area"] for entry in entries]
    assert [encoded(mask, SIZE).decode() for mask in masks] == [entry["compressed"] for entry in entries]


def test_a_compressed_code_gives_its_runs():
    """Those of the pixels themselves, on golden and on random masks; long runs have several characters."""
    generator = np.random.default_rng(0)
    masks = [*golden()[1], *(generator.random((9, 300)) < share for share in (0.01, 0.5, 0.999))]
    masks += [np.zeros((100, 300), bool), np.ones((100, 300), bool)]
    for mask in masks:
        counts = code(mask)["counts"]
        compressed = encoded(as_mask(code(mask), mask.shape), mask.shape)
        assert run_lengths(compressed).tolist() == counts
        again = as_mask({"size": list(mask.shape), "counts": compressed.decode()}, mask.shape)
        np.testing.assert_array_equal(bitmaps([again], mask.shape)[0], mask)


def test_written_and_read_again_a_mask_is_the_same():
    for entry, bitmap in zip(*golden(), strict=True):
        written = as_segmentation(as_mask(entry["segmentation"], SIZE), SIZE)
        again = as_mask(json.loads(json.dumps(written)), SIZE)
        np.testing.assert_array_equal(bitmaps([again], SIZE)[0], bitmap)


def test_no_masks_and_the_mask_of_a_box():
    assert bitmaps([], SIZE).shape == (0, *SIZE)
    expected = np.zeros(SIZE, bool)
    expected[3:10, 5:20] = True
    np.testing.assert_array_equal(bitmaps([rectangle((5, 3, 20, 10))], SIZE)[0], expected)


FULL = {"size": [50, 64], "counts": [0, 3200]}


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ([[1, 2, 3, 4]], "without a polygon of three points"),
        ([[1, 2, 3, 4], []], "without a polygon of three points"),
        ([[1, 2, 3, 4, 1e9, 6]], "farther than 32,768 pixels"),
        ({**FULL, "size": [64, 50]}, "of another size than its image"),
        ({**FULL, "counts": [1, 3200]}, "whose runs do not fill its image"),
        ({**FULL, "counts": [3201, -1]}, "whose runs do not fill its image"),
        ({**FULL, "counts": []}, "whose runs do not fill its image"),
        ({**FULL, "counts": ""}, "whose runs do not fill its image"),
        ({**FULL, "counts": "p~~ not a code"}, "whose runs do not fill its image"),
        ({**FULL, "counts": "\N{SNOWMAN}"}, "whose runs do not fill its image"),
        ({**FULL, "counts": "P" * 40}, "whose runs do not fill its image"),
        ({**FULL, "counts": "0PT"}, "whose runs do not fill its image"),
    ],
)
def test_masks_of_no_use(segmentation, told):
    with pytest.raises(UnusableMask, match=told):
        as_mask(segmentation, SIZE)


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ("text", "has the segmentation 'text'; expected polygons or"),
        ([[1, 2, 3]], r"has the polygon \[1, 2, 3\]; expected numbers"),
        ([1, 2, 3, 4, 5, 6], "has the polygon 1; expected numbers"),
        ([["a", 2, 3, 4, 5, 6]], "expected numbers x, y"),
        ([[1, 2, 3, 4, 5, float("nan")]], "expected numbers x, y"),
        ([[1, 2, 3, 4, 5, None]], "expected numbers x, y"),
        ({"counts": [3200]}, "expected its size and counts"),
        ({**FULL, "counts": 7}, "expected its size and counts"),
        ({**FULL, "counts": [1.5, 3198.5]}, "expected whole numbers"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, told):
    with pytest.raises(UserError, match=told):
        as_mask(segmentation, SIZE)


def test_of_several_polygons_the_good_ones_stay():
    [points] = as_mask([[1, 2, 3, 4], [0, 0, 9, 0, 9, 9]], SIZE)
    assert points.tolist() == [0, 0, 9, 0, 9, 9]
