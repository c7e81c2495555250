"""Batches of one group: every example of an epoch once, in an order that the seed and the position give."""

import dataclasses
import itertools

import numpy as np
import pytest

from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.data import build_data
from qsdt_jax.data.dense.orientation import GroupedOrder, orientations, steps_per_epoch
from qsdt_jax.data.pipeline import training_batches
from qsdt_jax.data.skipping import SkipCorrupt
from qsdt_jax.errors import CorruptRecord, UserError
from tests.launch.tiny import tiny_config

SIZES = [(2, 3) if i % 3 else (3, 2) for i in range(20)]  # 13 landscape, 7 portrait.
GROUPS = orientations(SIZES)


@dataclasses.dataclass(frozen=True)
class Sized:
    """Examples that say which they are; images of their own size."""

    corrupt: tuple[int, ...] = ()
    class_names = ("only",)

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        if index in self.corrupt:
            raise CorruptRecord(f"{index} is corrupt")
        return {"image": np.zeros((*SIZES[index], 1), np.uint8), "label": index}

    def size_of(self, index):
        return SIZES[index]


def marked(example, generator):
    return {**example, "drawn": generator.random(1, np.float32)}


def batches(count, source=None, groups=GROUPS, seed=1, **options):
    stream = training_batches(source or Sized(), marked, seed=seed, batch_size=3, groups=groups, **options)
    return list(itertools.islice(stream, count))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in other)


def test_squares_are_landscape():
    assert orientations([(2, 2), (3, 2), (2, 3), (4, 1)]) == ([0, 2], [1, 3])
    assert orientations([]) == ([], [])


def test_a_batch_is_of_one_group_and_an_epoch_has_every_example_once():
    steps = steps_per_epoch(GROUPS, 3)
    assert steps == 6
    found = batches(4 * steps)
    orders, places = set(), set()
    for epoch in range(4):
        of_epoch = found[epoch * steps : (epoch + 1) * steps]
        labels = [batch["label"].tolist() for batch in of_epoch]
        assert len(set(itertools.chain(*labels))) == 3 * steps
        tall = [{SIZES[label] == (3, 2) for label in of_batch} for of_batch in labels]
        assert all(len(kinds) == 1 for kinds in tall)
        assert sum(kinds == {True} for kinds in tall) == 2
        orders.add(tuple(itertools.chain(*labels)))
        places.add(tuple(kinds == {True} for kinds in tall))
    assert len(orders) == 4 and len(places) > 1  # Both groups and batches are shuffled, epoch by epoch.


def test_over_the_epochs_all_examples_come():
    """What is left over of a group is drawn anew."""
    labels = np.concatenate([batch["label"] for batch in batches(6 * 20)])
    assert set(labels.tolist()) == set(range(20))


def test_the_position_of_a_resumed_run_is_its_step():
    found = batches(20)
    for first in (1, 5, 6, 13):
        assert_same(batches(3, first_step=first), found[first : first + 3])
    far = batches(1, first_step=10**9)  # Nothing before it is made.
    assert_same(batches(1, first_step=10**9), far)
    assert [b["label"].tolist() for b in batches(3, seed=2)] != [b["label"].tolist() for b in found[:3]]


def test_randomness_belongs_to_the_position():
    drawn = np.concatenate([batch["drawn"] for batch in batches(20)])
    assert len(np.unique(drawn)) == 60


def test_rows_hold_what_they_hold_in_the_whole_batch():
    rows = batches(8, rows=(2, 0))
    for part, whole in zip(rows, batches(8), strict=True):
        assert_same([part], [{name: values[[2, 0]] for name, values in whole.items()}])


def test_epochs_are_kept_two_at_a_time():
    order = GroupedOrder(Sized(), GROUPS, 3, 0)
    for position in range(0, 18 * 10, 5):
        order.index(position)
    assert sorted(order._epochs) == [8, 9]
    assert order == GroupedOrder(Sized(), GROUPS, 3, 0)


def test_a_corrupt_record_is_replaced_by_one_of_its_group():
    """Else a batch would hold images of two shapes."""
    for corrupt in ((0, 1, 2), (18,), (19, 0, 3)):
        source = SkipCorrupt(Sized(corrupt), 10, GROUPS)
        for index in range(20):
            found = source[index]["label"]
            assert SIZES[found] == SIZES[index] and (index in corrupt) == (found != index)
        batches(12, source)
    assert [SkipCorrupt(Sized((0, 1, 18)), 10, GROUPS)[i]["label"] for i in (0, 1, 18)] == [3, 2, 3]
    with pytest.raises(UserError, match="none of 7 records"):
        SkipCorrupt(Sized((0, 3, 6, 9, 12, 15, 18)), 10, GROUPS)[3]


def test_without_groups_all_are_one():
    config = tiny_config()
    config.data.update(source="fake", fake_images=8)
    assert build_data(config).training_groups is None
    config.data.portrait = True
    with pytest.raises(UserError, match=r"config.data.portrait=True is for images with objects"):
        build_run(config)
