"""Batches: order and randomness are functions of (seed, position), wherever one starts and whoever reads."""

import dataclasses
import itertools
import multiprocessing
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

from qsdt_jax.data.events.frames import EventPreprocess
from qsdt_jax.data.pipeline import evaluation_batches, training_batches
from qsdt_jax.data.preprocess import Preprocess
from qsdt_jax.data.skipping import SkipCorrupt
from qsdt_jax.data.sources import FakeEvents, FakeSource, FolderSource
from qsdt_jax.errors import UserError

LENGTH = 10
IMAGES = Preprocess(size=(16, 16), mean=(0.5,), std=(0.2,), augmentation="affine")
EVENTS = EventPreprocess(size=(16, 16), timesteps=2, augmentation="flip_roll", roll=1)


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Examples that say which they are."""

    class_names = ("only",)
    length: int = LENGTH

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"image": np.full((1, 1, 1), index, np.float32), "label": index}


def marked(example, generator):
    """The example with the random number that its position gets."""
    image = np.concatenate([example["image"], generator.random((1, 1, 1), np.float32)], axis=-1)
    return {**example, "image": image}


def unchanged(example):
    return example


def batches(count: int, *, seed: int = 1, batch_size: int = 4, length: int = LENGTH, **options):
    """The first batches of numbered examples."""
    stream = training_batches(Numbered(length), marked, seed=seed, batch_size=batch_size, **options)
    return list(itertools.islice(stream, count))


def order(count: int, **options) -> list[int]:
    return [int(label) for batch in batches(count, **options) for label in batch["label"]]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


# Training


def test_a_batch_holds_arrays_of_the_types_that_it_says():
    source = FakeSource(6, (20, 18, 3), 5)
    preprocess = Preprocess(size=(16, 16), mean=(0.5,), std=(0.2,), augmentation="crop_flip")
    batch = next(training_batches(source, preprocess.train, seed=0, batch_size=3))
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        "image": ((3, 16, 16, 3), np.uint8),
        "label": ((3,), np.int32),
    }


@pytest.mark.parametrize("batch_size", [5, 4, 7, 15])
def test_every_example_comes_once_an_epoch(batch_size):
    """Also where batches do not end with the epochs."""
    found = order(-(-4 * LENGTH // batch_size), batch_size=batch_size)
    epochs = [found[i : i + LENGTH] for i in range(0, 4 * LENGTH, LENGTH)]
    assert all(sorted(epoch) == list(range(LENGTH)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_order_follows_from_the_seed():
    assert order(10) == order(10)
    assert len({tuple(order(3, seed=seed, length=50)) for seed in range(10)}) == 10
    # The stream is the same however it is cut into batches.
    assert order(10, batch_size=4) == order(5, batch_size=8)


def test_randomness_belongs_to_the_position():
    """It is never the same twice, nor for an example that comes again, and another run draws the same."""
    found = np.concatenate([batch["image"] for batch in batches(10)]).reshape(-1, 2)
    again = np.concatenate([batch["image"] for batch in batches(5, batch_size=8)]).reshape(-1, 2)
    assert np.array_equal(found, again)
    assert len(np.unique(found[:, 1])) == 40
    other = np.concatenate([batch["image"] for batch in batches(10, seed=2)]).reshape(-1, 2)
    assert not np.intersect1d(found[:, 1], other[:, 1]).size


@pytest.mark.parametrize("first_step", [1, 2, 3, 7, 1000])
def test_a_run_goes_on_where_it_stopped(first_step):
    start = time.monotonic()
    resumed = batches(4, first_step=first_step)
    assert time.monotonic() - start < 5  # The steps before are not read again.
    if first_step < 10:
        assert_same(resumed, batches(first_step + 4)[first_step:])
    else:
        assert_same(resumed[2:], batches(2, first_step=first_step + 2))


@pytest.fixture
def unreadable(tmp_path) -> FolderSource:
    """A folder with a good image and a bad one."""
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "train" / "cat" / "good.png")
    (tmp_path / "train" / "cat" / "bad.png").write_text("no image")
    return FolderSource(tmp_path, "train")


def assert_told(source: FolderSource, workers: int):
    preprocess = Preprocess(size=(4, 4), mean=(0.0,), std=(1.0,))
    with pytest.raises(UserError, match=r"bad\.png: not a readable image"):
        next(training_batches(source, preprocess.train, seed=0, batch_size=2, workers=workers))


def test_an_image_that_cannot_be_read_is_told_in_one_line(unreadable):
    assert_told(unreadable, workers=0)


@dataclasses.dataclass(frozen=True)
class Counted(Numbered):
    """Examples that count how often one is read."""

    reads: list[int] = dataclasses.field(default_factory=list)

    def __getitem__(self, index):
        self.reads.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("split", ["training", "evaluation"])
@pytest.mark.parametrize("batch_size", [64, 49])
def test_two_batches_are_read_ahead(split, batch_size, monkeypatch):
    """Examples ahead take memory: with large batches all that there is."""
    monkeypatch.setattr("qsdt_jax.data.pipeline.usable_cpus", lambda: 4)
    source = Counted(1000)
    if split == "training":
        stream = training_batches(source, marked, seed=0, batch_size=batch_size)
    else:
        stream = evaluation_batches(source, unchanged, batch_size=batch_size)
    next(stream)
    deadline = time.monotonic() + 10
    while len(source.reads) < 3 * batch_size and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # What would be read beyond.
    assert len(source.reads) == 3 * batch_size


@pytest.mark.slow
def test_processes_change_nothing(unreadable, monkeypatch):
    """The batches of threads; a resumed run may have another number of processes; none is left behind."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS([sys.argv[0]])  # Grain asks for it; the command line does it.
    expected = batches(9)
    monkeypatch.setattr("qsdt_jax.data.pipeline.usable_cpus", lambda: 1)
    assert_same(batches(9, workers=-1), expected)
    assert_same(batches(5, workers=2, first_step=4), expected[4:])
    assert_told(unreadable, workers=1)
    whole, again = (
        list(evaluation_batches(Numbered(), unchanged, batch_size=4, workers=count)) for count in (0, 2)
    )
    assert_same(again, whole)
    deadline = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert multiprocessing.active_children() == []


def read_for_ever(pipe):
    """Tells the processes that read, and reads on."""
    flags.FLAGS([sys.argv[0]])
    for batch in training_batches(Numbered(), marked, seed=0, batch_size=4, workers=2):
        del batch
        pipe.send([child.pid for child in multiprocessing.active_children()])


@pytest.mark.slow
def test_processes_end_with_the_one_that_is_killed():
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=read_for_ever, args=(there,))
    process.start()
    assert here.poll(60)
    readers = here.recv()
    assert len(readers) == 2
    process.kill()
    deadline = time.monotonic() + 30
    while any(map(is_running, readers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, readers))


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_the_end_of_a_process_is_told_in_one_line():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS([sys.argv[0]])
    stream = training_batches(Numbered(), marked, seed=0, batch_size=4, workers=1)
    next(stream)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(
        UserError, match=r"one of the 1 processes that read the data has ended \(.*code -9\); "
    ):
        for _ in range(1000):
            next(stream)


# Evaluation


@pytest.mark.parametrize("batch_size", [1, 4, 5, 10, 13])
def test_evaluation_counts_every_example_once(batch_size):
    found = list(evaluation_batches(Numbered(), unchanged, batch_size=batch_size))
    assert len(found) == -(-LENGTH // batch_size)
    labels, masks = (np.concatenate([batch[name] for batch in found]) for name in ("label", "mask"))
    assert labels.dtype == masks.dtype == np.int32
    assert labels[masks == 1].tolist() == list(range(LENGTH))
    assert masks.sum() == LENGTH and set(masks) <= {0, 1}
    # All batches have one shape, so that one program does for all.
    assert {batch["image"].shape for batch in found} == {(batch_size, 1, 1, 1)}
    images = np.concatenate([batch["image"] for batch in found]).reshape(-1)
    assert images.tolist() == [*range(LENGTH), *[0] * (len(found) * batch_size - LENGTH)]


def test_evaluation_draws_nothing():
    source = FakeSource(5, (20, 20, 1), 3)
    first, again = (list(evaluation_batches(source, IMAGES.evaluate, batch_size=4)) for _ in range(2))
    assert_same(first, again)


def chosen(batch, rows):
    return {name: values[rows] for name, values in batch.items()}


@pytest.mark.parametrize("rows", [[0, 1], [2, 3], [3, 0, 2], [1]])
def test_rows_hold_what_they_hold_in_the_whole_batch(rows):
    """Order and random numbers, from any step on: so several processes read one stream."""
    whole = batches(7)
    assert_same(batches(7, rows=rows), [chosen(batch, rows) for batch in whole])
    assert_same(batches(4, rows=rows, first_step=3), [chosen(batch, rows) for batch in whole[3:]])


@pytest.mark.parametrize("length", [9, 10, 12, 3])
def test_rows_of_the_evaluation(length):
    """All processes have the same number of batches, also where nothing is left for one in the last."""
    whole = list(evaluation_batches(Numbered(length), unchanged, batch_size=4))
    assert sum(int(batch["mask"].sum()) for batch in whole) == length
    for rows in ([0, 1], [2, 3], [3]):
        part = list(evaluation_batches(Numbered(length), unchanged, batch_size=4, rows=rows))
        assert_same(part, [chosen(batch, rows) for batch in whole])


# Examples of other tasks


@dataclasses.dataclass(frozen=True)
class Boxed:
    """Images with boxes, a target and a number of 64 bits, and no label; they have no classes."""

    length: int = LENGTH

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {
            "image": np.full((2, 3, 1), index, np.uint8),
            "boxes": np.full((5, 4), index, np.float32),
            "target": np.full(3, index, np.float16),
            "identity": np.int64(2**40 + index),
            "crowd": np.array([index % 2 == 0, True]),
            "weight": index / 2,
        }


BOXED = {
    "image": ((2, 3, 1), np.uint8),
    "boxes": ((5, 4), np.float32),
    "target": ((3,), np.float16),
    "identity": ((), np.int64),
    "crowd": ((2,), np.bool_),
    "weight": ((), np.float32),
    "drawn": ((2,), np.float64),
}


def drawn(example, generator=None):
    """One more key, with random numbers in training."""
    return {**example, "drawn": generator.random(2) if generator else np.zeros(2)}


def assert_boxed(batch, rows: int, **more):
    expected = {name: ((rows, *shape), dtype) for name, (shape, dtype) in (BOXED | more).items()}
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == expected
    index = batch["identity"] - 2**40
    for name in ("image", "boxes", "target"):
        whole = batch[name].reshape(rows, -1)
        np.testing.assert_array_equal(whole, np.broadcast_to(index[:, None], whole.shape))
    np.testing.assert_array_equal(batch["weight"], index / 2)
    np.testing.assert_array_equal(batch["crowd"][:, 0], index % 2 == 0)


def boxed_training(count: int, source=None, **options):
    with jax.enable_x64(True):
        stream = training_batches(source or Boxed(), drawn, seed=3, batch_size=4, **options)
    return list(itertools.islice(stream, count))


def boxed_evaluation(**options):
    """The rows that are there, and the padding of the last batch."""
    with jax.enable_x64(True):
        *whole, last = evaluation_batches(Boxed(), drawn, batch_size=4, **options)
    assert last["mask"].tolist() == [1, 1, 0, 0]
    assert all(not x[2:].any() for x in last.values())
    return [*whole, {name: x[:2] for name, x in last.items()}]


def test_every_key_reaches_the_batch_with_its_type_and_shape():
    for batch in boxed_training(6):
        assert_boxed(batch, 4)
    found = boxed_evaluation()
    for batch, rows in zip(found, (4, 4, 2), strict=True):
        assert_boxed(batch, rows, mask=((), np.int32))
    order = np.concatenate([batch["identity"] for batch in found])
    assert order.tolist() == [2**40 + i for i in range(LENGTH)]


def test_other_keys_go_on_where_they_stopped_and_come_in_rows():
    whole = boxed_training(7)
    assert_same(boxed_training(4, first_step=3), whole[3:])
    assert_same(boxed_training(7, rows=[3, 0]), [chosen(batch, [3, 0]) for batch in whole])
    assert_same(boxed_training(2, SkipCorrupt(Boxed(), 0)), whole[:2])


@pytest.mark.slow
def test_processes_hand_over_every_key():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS([sys.argv[0]])
    assert_same(boxed_training(3, workers=2, first_step=2), boxed_training(5)[2:])
    assert_same(boxed_evaluation(workers=2), boxed_evaluation())


@pytest.mark.parametrize("preprocess", [IMAGES, EVENTS], ids=["images", "events"])
def test_what_a_preprocess_does_not_know_it_leaves_alone(preprocess):
    """And it asks for no label."""
    source = FakeSource(6, (20, 18, 1), 5) if preprocess is IMAGES else FakeEvents(6, (16, 16), 5, 50)
    example = {name: value for name, value in source[0].items() if name != "label"}
    plain = preprocess.evaluate(example)
    assert plain.keys() == {"image"}
    target = np.arange(3)
    for found in (
        preprocess.evaluate({**example, "target": target}),
        preprocess.train({**example, "target": target}, np.random.default_rng(0)),
    ):
        assert found.keys() == {"image", "target"} and found["target"] is target


def test_what_is_no_number_is_named():
    with pytest.raises(ValueError, match="'file' of an example is str; expected numbers for an array"):
        next(evaluation_batches(Numbered(), lambda example: {**example, "file": "a.png"}, batch_size=2))


def evaluated(value) -> np.ndarray:
    """The first two rows of a key of this value."""
    stream = evaluation_batches(Numbered(), lambda example: {**example, "identity": value}, batch_size=2)
    return next(stream)["identity"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2**40, f"{2**40}, which int32"),
        (-(2**31) - 1, f"{-(2**31) - 1}, which int32"),
        (np.int64(2**31), f"{2**31}, which int32"),
        (np.array([[0, -(2**40)]]), f"{-(2**40)}, which int32"),
        ([5, 2**40], f"{2**40}, which int32"),
        (np.uint64(2**32), f"{2**32}, which uint32"),
    ],
)
def test_integers_that_a_device_would_cut_are_refused(value, told):
    with pytest.raises(UserError) as error:
        evaluated(value)
    assert str(error.value) == (
        f"'identity' of an example holds {told} does not; "
        "with jax_enable_x64 an integer of NumPy's may have 64 bits"
    )


@pytest.mark.parametrize(
    "value", [np.int64(-(2**31)), np.uint64(2**32 - 1), np.zeros((0, 3), np.int64), np.array([2**31 - 1])]
)
def test_integers_that_fit_stay_what_they_are_on_the_device(value):
    found = evaluated(value)
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(np.asarray(jax.device_put(found)), np.stack([value, value]))


def test_with_64_bits_nothing_is_cut():
    with jax.enable_x64(True):
        assert evaluated(np.int64(2**40)).tolist() == [2**40] * 2
        with pytest.raises(UserError, match=f"'identity' of an example holds {2**40}, which int32 does not"):
            evaluated(2**40)


def test_a_mask_of_its_own_is_no_padding():
    with pytest.raises(ValueError, match='"mask" tells rows from padding'):
        next(evaluation_batches(Numbered(), lambda example: {**example, "mask": 1}, batch_size=2))
