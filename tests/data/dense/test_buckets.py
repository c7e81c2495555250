"""Buckets and plans: every image once, in arrays that hold it, few in number, alike in every process."""

import itertools

import numpy as np
import pytest

from qsdt_jax.data.dense.buckets import Bucket, Buckets, grid_of, grouped, scaled
from qsdt_jax.data.dense.segmentation import SegmentationPreprocess
from qsdt_jax.data.pipeline import evaluation_batches
from qsdt_jax.data.plan import Plan, groups_of, sizes_of
from qsdt_jax.errors import UserError
from tests.data.dense.annotated import SIZES, Annotated

LANDSCAPE = ((512, 512), (512, 704), (512, 1024), (512, 2048))
ADE20K = Buckets(512, 2048, (*LANDSCAPE, *((width, height) for height, width in LANDSCAPE[1:])))
SMALL = Buckets(0, 2048, ((16, 16), (32, 32), (64, 64), (32, 64)))
PREPROCESS = SegmentationPreprocess(size=(16, 16), mean=(0.5,), std=(0.5,), buckets=SMALL)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ((512, 683), (512, 683)),
        ((256, 384), (512, 768)),
        ((683, 512), (683, 512)),
        ((1000, 1500), (512, 768)),
        ((1, 1), (512, 512)),
        ((100, 1000), (205, 2048)),
        ((1, 9999), (1, 2048)),
        ((2113, 2001), (541, 512)),
    ],
)
def test_sides_keep_their_ratio_within_both_bounds(own, expected):
    assert scaled(own, 512, 2048) == expected
    assert scaled(own, 0, 2048) == own


def test_a_ratio_is_a_factor_on_both_sides():
    assert scaled((256, 384), 512, 2048, 0.75) == (384, 576)
    assert scaled((10, 15), 0, 1, 1.5) == (15, 23)
    assert scaled((1, 1), 0, 1, 0.4) == (1, 1)


def test_an_image_takes_the_smallest_bucket_that_holds_it():
    assert ADE20K.of((512, 683)) == Bucket((512, 704), (512, 704))
    assert ADE20K.of((683, 512)) == Bucket((704, 512), (704, 512))
    assert ADE20K.of((513, 684)) == Bucket((512, 704), (1024, 1408))  # Shown smaller; its annotation is not.
    assert ADE20K.of((128, 128)) == Bucket((512, 512), (512, 512))
    assert ADE20K.of((3000, 4000)) == Bucket((512, 704), (4096, 5632))
    assert SMALL.of((17, 33)) == Bucket((32, 64), (32, 64))
    assert SMALL.of((33, 17)) == Bucket((64, 64), (64, 64))
    assert SMALL.of((1, 16)) == Bucket((16, 16), (16, 16))


def test_the_largest_array_holds_every_image():
    assert ADE20K.largest == (2048, 512) and SMALL.largest == (64, 64)
    assert Buckets(0, 2048).largest is None
    for grid in ((256, 256), (48, 32), (32, 304)):
        buckets = Buckets(100, 300, (), grid)
        sides = range(1, 400, 7)
        found = {buckets.of((height, width)).image for height in sides for width in sides}
        assert buckets.largest in found
        assert max(height * width for height, width in found) == np.prod(buckets.largest)


def test_every_size_is_held_and_by_nothing_smaller():
    generator = np.random.default_rng(0)
    for own in generator.integers(1, 3000, (500, 2)).tolist():
        for buckets in (ADE20K, Buckets(512, 2048, (), (256, 256)), Buckets(0, 1, (), (48, 32))):
            shown, (image, annotation) = buckets.shown(own), buckets.of(own)
            assert image[0] >= shown[0] and image[1] >= shown[1]
            assert annotation[0] >= own[0] and annotation[1] >= own[1]
            factor = annotation[0] // image[0]
            assert annotation == (factor * image[0], factor * image[1])
            assert factor == 1 or 2 * own[0] > annotation[0] or 2 * own[1] > annotation[1]
            smaller = [b for b in buckets.sizes if b[0] * b[1] < image[0] * image[1]]
            assert not any(b[0] >= shown[0] and b[1] >= shown[1] for b in smaller)
            if not buckets.sizes:
                assert all(b - s < step for b, s, step in zip(image, shown, buckets.grid, strict=True))


def test_buckets_bound_the_number_of_programs():
    """Of thousands of sizes: as many as there are buckets, times the scales of an annotation."""
    sizes = np.random.default_rng(1).integers(1, 4000, (20_000, 2)).tolist()
    found = {ADE20K.of(own) for own in sizes}
    assert {bucket.image for bucket in found} == set(ADE20K.sizes)
    assert {bucket.annotation[0] // bucket.image[0] for bucket in found} == {1, 2, 4, 8}
    assert len(found) <= 4 * len(ADE20K.sizes)
    default = Buckets(512, 2048, (), grid_of((512, 512)))
    assert len({default.of(own).image for own in sizes}) <= 15


def test_the_grid_is_half_of_the_input():
    assert grid_of((512, 512)) == (256, 256)
    assert grid_of((16, 48)) == (16, 32)


def test_an_image_that_fits_no_bucket_is_told_in_one_line():
    with pytest.raises(UserError) as caught:
        Buckets(512, 2048, ((512, 512), (512, 704))).of((100, 150))
    assert str(caught.value) == (
        "an image of 100x150 pixels, shown at 512x768, fits none of the buckets 512x512, 512x704"
    )


# Plans


@pytest.mark.parametrize("batch_size", [1, 2, 4, 30])
def test_a_plan_has_every_image_once_with_others_of_its_bucket(batch_size):
    sizes = np.random.default_rng(2).integers(1, 65, (50, 2)).tolist()
    groups = grouped([SMALL.of(size) for size in sizes])
    plan = Plan(groups, batch_size)
    batches = [plan.batch(step) for step in range(plan.steps)]
    assert sorted(itertools.chain(*batches)) == list(range(50))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    buckets = [{SMALL.of(sizes[index]) for index in batch} for batch in batches]
    assert all(len(found) == 1 for found in buckets)
    # Only the last of each bucket is not full.
    assert sum(len(batch) < batch_size for batch in batches) <= len(groups)
    areas = [np.prod(bucket.image) for (bucket,) in buckets]
    assert areas == sorted(areas, reverse=True)


def test_a_plan_of_one_group_is_the_order_of_the_source():
    plan = Plan(groups_of(Annotated(), None, 9), 4)
    assert [list(plan.batch(step)) for step in range(plan.steps)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert Plan((), 4).steps == Plan(((),), 4).steps == 0


def test_sizes_are_asked_for_the_first_images_only():
    asked = []

    class Source(Annotated):
        def size_of(self, index):
            asked.append(index)
            return super().size_of(index)

        def __getitem__(self, index):
            raise AssertionError("an image was decoded")

    assert sizes_of(Source(), 4) == list(SIZES[:4])
    assert sorted(asked) == [0, 1, 2, 3]
    assert sorted(itertools.chain(*groups_of(Source(), SMALL, 4))) == [0, 1, 2, 3]


def test_a_source_without_sizes_is_told():
    with pytest.raises(
        UserError, match=r"^list does not tell the sizes of its images; expected a method size_of"
    ):
        groups_of([], SMALL, 0)


# Batches of a plan


def evaluated(count: int, batch_size: int, **options):
    source = Annotated()
    groups = groups_of(source, PREPROCESS.buckets, count)
    return list(
        evaluation_batches(source, PREPROCESS.evaluate, batch_size=batch_size, groups=groups, **options)
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [9, 4])
def test_batches_hold_every_image_once_in_its_bucket(batch_size, count):
    batches = evaluated(count, batch_size)
    seen = []
    for batch in batches:
        assert batch["image"].shape[0] == batch_size and batch["mask"].shape == (batch_size,)
        for row in range(batch_size):
            if not batch["mask"][row]:
                assert not any(values[row].any() for values in batch.values())
                continue
            own = tuple(batch["annotation_size"][row])
            image, annotation = batch["image"][row], batch["annotation"][row]
            height, width = batch["size"][row]
            index = int(image[0, 0, 0]) - 1
            seen.append(index)
            assert own == (height, width) == SIZES[index]
            assert (image.shape[:2], annotation.shape) == SMALL.of(own)
            assert (
                np.all(image[:height, :width] == index + 1)
                and image.sum() == 3 * (index + 1) * height * width
            )
            assert np.all(annotation[:height, :width] == index)
            assert (annotation == 255).sum() == annotation.size - height * width
    assert sorted(seen) == list(range(count))
    assert len({batch["image"].shape for batch in batches}) <= len(SMALL.sizes)


@pytest.mark.parametrize("rows", [[0, 1], [2, 3], [3, 0, 2]])
def test_processes_share_each_batch(rows):
    """All have the same number of batches, of the same shapes."""
    whole, part = evaluated(9, 4), evaluated(9, 4, rows=rows)
    assert len(part) == len(whole)
    for one, other in zip(part, whole, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name][rows]) for name in one)
