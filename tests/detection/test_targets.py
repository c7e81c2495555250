"""Targets of the three heads: what each anchor, box and mask is told to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection.boxes import decode, iou
from qsdt_jax.detection.roi_align import roi_align
from qsdt_jax.detection.targets import BOX_STD, anchor_targets, box_targets, mask_targets
from tests.golden.detection import golden

KEY = jax.random.key(0)
K = 5
BOXES = jnp.asarray([[0, 0, 0, 0], [10, 10, 40, 50], [0, 0, 0, 0], [60, 20, 90, 40]], jnp.float32)
CATEGORY = jnp.asarray([-1, 2, -1, 4])


def boxes_around(rng, count):
    """Boxes near the two objects, and elsewhere."""
    near = np.asarray(BOXES)[rng.choice([1, 3], count)] + rng.normal(0, 4, (count, 4))
    near[::4] = rng.uniform([0, 0, 50, 50], [50, 50, 100, 100], (len(near[::4]), 4))
    return jnp.asarray(near, jnp.float32)


def test_every_anchor_where_all_are_sampled():
    anchors = boxes_around(np.random.default_rng(0), 300)
    inside = jnp.asarray(np.random.default_rng(1).uniform(size=300) < 0.7)
    found = jax.jit(anchor_targets, static_argnums=5)(KEY, anchors, inside, BOXES, CATEGORY, 600)
    overlap = np.asarray(iou(BOXES, anchors))[[1, 3]]
    best, own = overlap.max(0), np.asarray([1, 3])[overlap.argmax(0)]
    within = np.asarray(inside)
    positive = within & (best >= 0.7)
    for k, own_best in enumerate((overlap * within).max(1)):
        assert own_best >= 0.3
        taken = within & (overlap[k] >= own_best - 1e-5)
        positive |= taken
        own[taken] = [1, 3][k]
    assert 5 < positive.sum() < 100
    np.testing.assert_array_equal(found.label, positive)
    np.testing.assert_array_equal(found.weight, positive | (within & (best < 0.3)))
    back = decode(found.deltas, anchors)[positive]
    np.testing.assert_allclose(back, np.asarray(BOXES)[own[positive]], atol=1e-3)
    assert not np.asarray(found.deltas)[~positive].any()


def test_half_of_the_sampled_anchors_are_positive_at_most():
    anchors = jnp.tile(BOXES[1], (50, 1)).at[::2].set(jnp.asarray([70.0, 70, 90, 90]))
    found = anchor_targets(KEY, anchors, jnp.ones(50, bool), BOXES, CATEGORY, 20)
    assert jnp.sum(found.weight) == 20
    assert jnp.sum(found.weight * found.label) == 10


@pytest.mark.parametrize("object_on_padding", [False, True])
def test_anchors_outside_take_no_part_even_as_the_best(object_on_padding):
    """The best of the anchors inside is taken, however good those outside are."""
    anchors = jnp.asarray([[10, 10, 40, 50], [10, 10, 40, 28], [70, 70, 90, 90]], jnp.float32)
    found = anchor_targets(KEY, anchors, jnp.asarray([False, True, True]), BOXES, CATEGORY)
    assert found.label.tolist() == [0, 1, 0]  # IoU 0.45: of low quality.
    assert found.weight.tolist() == [0, 1, 1]
    if object_on_padding:
        found = anchor_targets(KEY, anchors, jnp.zeros(3, bool), BOXES, CATEGORY)
        assert not np.asarray(found.weight).any()


def test_ground_truths_are_candidates_matched_to_themselves():
    """Of two identical boxes the second is not told to be the first."""
    boxes = jnp.asarray([[10, 10, 40, 50], [10, 10, 40, 50], [0, 0, 0, 0]], jnp.float32)
    found = box_targets(KEY, jnp.zeros((4, 4)), jnp.zeros(4, bool), boxes, jnp.asarray([2, 3, -1]), K, 16)
    assert sorted(zip(found.matched[:2].tolist(), found.category[:2].tolist(), strict=True)) == [
        (0, 2),
        (1, 3),
    ]
    assert found.weight.tolist() == found.positive.tolist() == [1, 1] + [0] * 14
    assert not np.asarray(found.boxes[2:]).any()
    assert set(found.category[2:].tolist()) == {K}
    np.testing.assert_array_equal(found.deltas, np.zeros((16, 4)))


def test_sampled_boxes_know_their_ground_truth():
    proposals = boxes_around(np.random.default_rng(2), 200)
    valid = jnp.asarray(np.random.default_rng(3).uniform(size=200) < 0.8)
    found = jax.jit(box_targets, static_argnums=(5, 6))(KEY, proposals, valid, BOXES, CATEGORY, K, 64)
    assert found.weight.tolist() == [1] * 64
    assert found.positive.tolist() == [True] * 16 + [False] * 48
    overlap = np.asarray(iou(BOXES, found.boxes))
    np.testing.assert_array_equal(overlap[:, :16].argmax(0), found.matched[:16])
    assert (overlap[:, :16].max(0) >= 0.5).all()
    assert (overlap[:, 16:].max(0) < 0.5).all()
    np.testing.assert_array_equal(found.category, [*np.asarray(CATEGORY)[found.matched[:16]], *[K] * 48])
    back = decode(found.deltas, found.boxes, BOX_STD)[:16]
    np.testing.assert_allclose(back, np.asarray(BOXES)[found.matched[:16]], atol=1e-3)
    allowed = {
        tuple(box) for box in np.concatenate([proposals[np.asarray(valid)], BOXES[CATEGORY >= 0]]).tolist()
    }
    drawn = [tuple(box) for box in found.boxes.tolist()]
    assert set(drawn) <= allowed
    assert len(set(drawn)) == 64


def test_candidates_are_assigned_as_published():
    """Where all are sampled: 1000 proposals and four objects of the published detector."""
    file = golden("sampled")
    boxes, labels = file["boxes"], file["labels"]
    candidates = np.concatenate([boxes, file["proposals"]])
    count = len(candidates)
    with jax.enable_x64(True):
        found = jax.jit(box_targets, static_argnums=(5, 6))(
            KEY, jnp.asarray(file["proposals"]), jnp.ones(1000, bool), boxes, labels, K, 4 * count
        )
        assert found.weight.tolist() == [1] * count + [0] * 3 * count
        drawn = np.asarray(found.boxes)[:count]
        places = np.argmax((drawn[:, None] == candidates).all(-1), axis=1)
    assert sorted(places) == list(range(count))
    positive = np.asarray(found.positive)[:count]
    order = np.argsort(places[positive])
    np.testing.assert_array_equal(places[positive][order], file["positive"])
    np.testing.assert_array_equal(np.asarray(found.matched)[:count][positive][order], file["ground_truth"])
    np.testing.assert_array_equal(
        np.asarray(found.category)[:count][positive][order], labels[file["ground_truth"]]
    )


@pytest.mark.parametrize("zero_area", [False, True])
def test_an_image_without_objects_has_negatives_only_and_finite_numbers(zero_area):
    """Also where an object has no area: it could not be told how to become one."""
    category = jnp.asarray([1 if zero_area else -1, -1])
    boxes = jnp.zeros((2, 4))
    anchors = jnp.asarray([[0, 0, 8, 8], [4, 4, 4, 9], [0, 0, 0, 0]], jnp.float32)
    told = jax.jit(anchor_targets)(KEY, anchors, jnp.ones(3, bool), boxes, category)
    assert not np.asarray(told.label).any()
    assert told.weight.tolist() == [1, 1, 1]
    found = jax.jit(box_targets, static_argnums=(5, 6))(
        KEY, anchors, jnp.ones(3, bool), boxes, category, K, 8
    )
    assert found.positive.tolist() == [False] * 8
    assert jnp.sum(found.weight) == 3
    masks = mask_targets(jnp.zeros((2, 56, 56), jnp.uint8), boxes, found.boxes, found.matched)
    for x in (*told, *found, masks):
        assert np.isfinite(x).all()


def cover_of(bitmap, box, cells=56):
    """uint8 (cells, cells): the share of each cell of a box that a bitmap covers."""

    def overlaps(low, high, length):  # (cells, pixels) of each cell with each pixel, in cells.
        edges = np.linspace(low, high, cells + 1)
        pixels = np.arange(length)
        common = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.maximum(common, 0) * cells / (high - low)

    rows, columns = overlaps(box[1], box[3], len(bitmap)), overlaps(box[0], box[2], bitmap.shape[1])
    return np.round(255 * (rows @ bitmap @ columns.T)).astype(np.uint8)


def test_masks_by_roi_align_of_whole_bitmaps():
    file = golden("masks")
    bitmaps, rois = file["bitmaps"][file["target/bitmap_index"]], file["target/boxes"]
    matched, expected = file["target/gt"], file["target/bitmap28_ratio2"]
    sure = file["target/near_threshold"] == 0
    with jax.enable_x64(True):
        maps = [jnp.asarray(bitmaps[matched, :, :, None], jnp.float64)]
        value = jax.jit(lambda *x: roi_align(*x, 28, (1,)))(maps, rois[:, None])
    found = np.asarray(value)[:, 0, :, :, 0] >= 0.5
    np.testing.assert_array_equal(found[sure], expected[sure])


def test_masks_from_the_coverage_are_nearly_those_of_whole_bitmaps():
    """A crescent in a box anywhere; RoIs as a proposal may be, that reach beyond the box."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:160, :200] + 0.5
    bitmaps, own, rois = [], [], []
    for _ in range(30):
        radius = rng.uniform(20, 60, 2)
        centre = rng.uniform(radius, [200, 160] - radius)
        disc, bite = (
            ((x - shift - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 < 1
            for shift in (0, radius[0])
        )
        bitmap = disc & ~bite
        rows, columns = np.nonzero(bitmap)
        box = np.asarray([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        side = np.tile(box[2:] - box[:2], 2)
        bitmaps.append(bitmap)
        own.append(box)
        rois.append(box + rng.uniform(-0.2, 0.2, 4) * side)
    own, rois = np.asarray(own), np.asarray(rois, np.float32)
    maps = [jnp.asarray(np.stack(bitmaps)[..., None], jnp.float32)]
    value = jax.jit(lambda *x: roi_align(*x, 28, (1,)))(maps, rois[:, None])
    expected = np.asarray(value)[:, 0, :, :, 0] >= 0.5
    masks = np.stack([cover_of(bitmap, box) for bitmap, box in zip(bitmaps, own, strict=True)])
    found = np.asarray(jax.jit(mask_targets)(masks, own, rois, np.arange(30))) > 0
    shares = (found & expected).sum((1, 2)) / (found | expected).sum((1, 2))
    assert shares.mean() > 0.985, shares
    assert shares.min() > 0.95, shares


def test_the_mask_of_the_own_box_is_the_coverage():
    masks = jnp.zeros((1, 56, 56), jnp.uint8).at[0, :28].set(255).at[0, 28:, :14].set(255)
    box = jnp.asarray([[3, 5, 40, 30]], jnp.float32)
    found = mask_targets(masks, box, box, jnp.asarray([0]))
    expected = np.zeros((28, 28))
    expected[:14], expected[14:, :7] = 1, 1
    np.testing.assert_array_equal(found[0], expected)
