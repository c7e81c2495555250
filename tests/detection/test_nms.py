"""Non-maximum suppression against torchvision's, and against the loop over boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection.nms import nms, nms_per_class, ranked
from tests.detection.by_hand import box_by_box
from tests.golden.detection import golden

CASES = ("random300", "clusters300", "ties", "duplicates", "duplicates_tied", "exact_half", "one")
THRESHOLDS = (0.5, 0.7)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def in_order(keep, scores):
    """Indices of kept boxes by descending score, equals by index."""
    return [i for i in np.argsort(-np.asarray(scores), kind="stable") if keep[i]]


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("case", CASES)
def test_kept_boxes(float64, case, threshold):
    file = golden("nms")
    boxes, scores = jnp.asarray(file[f"{case}/boxes"]), jnp.asarray(file[f"{case}/scores"])
    keep = nms(boxes, scores, jnp.ones(len(scores), bool), threshold, resolution=1e-12)
    assert in_order(keep, scores) == file[f"{case}/keep{threshold}"].tolist()


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("case", CASES[:-1])
def test_kept_boxes_of_each_class(float64, case, threshold):
    file = golden("nms")
    boxes, scores = jnp.asarray(file[f"{case}/boxes"]), jnp.asarray(file[f"{case}/scores"])
    classes = file[f"{case}/classes"]
    count = classes.max() + 1
    valid = classes == np.arange(count)[:, None]
    keep = nms_per_class(
        jnp.broadcast_to(boxes, (count, *boxes.shape)),
        jnp.broadcast_to(scores, (count, *scores.shape)),
        jnp.asarray(valid),
        threshold,
        resolution=1e-12,
        group=2,
    )
    assert not np.any(keep & ~valid)
    assert in_order(np.any(keep, 0), scores) == file[f"{case}/batched_keep{threshold}"].tolist()


@pytest.mark.parametrize("kind", ["random", "chain", "all_equal", "no_area", "nothing_valid"])
def test_it_is_the_loop_over_boxes(kind):
    rng = np.random.default_rng(0)
    count = 60
    corner, sides = rng.integers(0, 40, (count, 2)), rng.integers(1, 30, (count, 2))
    scores, valid = rng.uniform(size=count), rng.uniform(size=count) < 0.8
    if kind == "chain":  # Each box covers the next only: half are kept, after a round for each.
        corner, sides = np.arange(count)[:, None] * [3, 0], np.full((count, 2), 10)
        scores, valid = np.linspace(1, 0.1, count), np.ones(count, bool)
    if kind == "all_equal":
        scores = 0.5 + rng.uniform(-4e-7, 4e-7, count)  # Up to what is rounded away.
    if kind == "no_area":
        sides = sides * (rng.uniform(size=(count, 2)) < 0.5)
    if kind == "nothing_valid":
        valid[:] = False
    boxes = np.concatenate([corner, corner + sides], -1).astype(np.float32)
    scores = scores.astype(np.float32)
    keep = jax.jit(nms, static_argnums=3)(boxes, scores, valid, 0.5)
    np.testing.assert_array_equal(keep, box_by_box(boxes, scores, valid, 0.5))
    assert keep.sum() == {"chain": count // 2, "nothing_valid": 0}.get(kind, keep.sum())


def test_images_side_by_side_have_the_results_of_each():
    """The rounds of one image leave those alone that have settled."""
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 30, (3, 40, 2))
    boxes = np.concatenate([corner, corner + 12], -1).astype(np.float32)
    scores = rng.uniform(size=(3, 40)).astype(np.float32)
    valid = np.ones((3, 40), bool)
    found = jax.vmap(lambda *x: nms(*x, 0.3))(boxes, scores, valid)
    for i in range(3):
        np.testing.assert_array_equal(found[i], box_by_box(boxes[i], scores[i], valid[i], 0.3))


def test_no_boxes():
    keep = nms(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool), 0.5)
    assert keep.shape == (0,)


def test_equal_up_to_rounding_is_equal():
    scores = jnp.asarray([0.3, 0.3 + 3e-8, 0.3 - 3e-8, 0.30001, 0.9])
    rank = ranked(scores, jnp.asarray([True, True, True, True, False]))
    assert rank[0] == rank[1] == rank[2] < rank[3]
    assert rank[4] == -jnp.inf
