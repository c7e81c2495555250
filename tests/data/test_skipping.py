"""Corrupt records in training."""

import dataclasses
import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from qsdt_jax import retry
from qsdt_jax.data.pipeline import training_batches
from qsdt_jax.data.skipping import SkipCorrupt
from qsdt_jax.data.sources import Example, FolderSource
from qsdt_jax.errors import CorruptRecord, UserError


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Record i holds i as image and label, where it can be read."""

    length: int
    corrupt: tuple[int, ...]
    class_names: tuple[str, ...] = ("a",)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if index in self.corrupt:
            raise CorruptRecord(f"{index}.jpg: not a readable image")
        return {"image": np.full((1, 1, 1), index, np.uint8), "label": index}


def keep(example: Example, generator: np.random.Generator) -> Example:
    return example


def test_the_next_record_takes_the_place_with_its_own_label():
    source = SkipCorrupt(Numbers(10, (3, 6, 7, 9)), 4)
    expected = [0, 1, 2, 4, 4, 5, 8, 8, 8, 0]
    examples = [source[i] for i in range(10)]
    assert [e["label"] for e in examples] == expected
    assert [int(np.asarray(e["image"])[0, 0, 0]) for e in examples] == expected
    assert (len(source), source.class_names) == (10, ("a",))


def test_what_stands_at_an_index_does_not_depend_on_the_order_of_reading():
    numbers = Numbers(50, tuple(range(0, 50, 7)))
    order = np.random.default_rng(0).permutation(50).tolist()
    forward, shuffled = SkipCorrupt(numbers, 10), SkipCorrupt(numbers, 10)
    found = {i: shuffled[i]["label"] for i in order}
    assert [forward[i]["label"] for i in range(50)] == [found[i] for i in range(50)]


def test_each_corrupt_record_is_logged_once_with_its_name(caplog):
    source = SkipCorrupt(Numbers(10, (3, 4)), 5)
    for _ in range(3):
        for i in range(10):
            source[i]
    assert [record.getMessage() for record in caplog.records] == [
        "corrupt record 1 of at most 5, skipped: 3.jpg: not a readable image",
        "corrupt record 2 of at most 5, skipped: 4.jpg: not a readable image",
    ]


def test_the_limit():
    source = SkipCorrupt(Numbers(10, (1, 4, 8)), 2)
    assert [source[i]["label"] for i in (1, 4, 1, 3)] == [2, 5, 2, 3]
    for _ in range(2):  # Again: a thread that comes later must not slip through.
        with pytest.raises(UserError, match=r"3 records .* at most 2; the last: 8\.jpg: not a") as error:
            source[8]
        assert not isinstance(error.value, CorruptRecord)
    with pytest.raises(UserError, match="1 records cannot be read; expected at most 0"):
        SkipCorrupt(Numbers(10, (1,)), 0)[1]


def test_all_corrupt():
    with pytest.raises(UserError, match="none of 3 records can be read"):
        SkipCorrupt(Numbers(3, (0, 1, 2)), 10)[1]


def test_other_errors_go_through():
    class Broken(Numbers):
        def __getitem__(self, index):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        SkipCorrupt(Broken(3, ()), 10)[0]


def test_threads_count_each_record_once(caplog):
    source = SkipCorrupt(Numbers(40, tuple(range(0, 40, 2))), 20)
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda i: source[i]["label"], list(range(40)) * 20))
    assert labels == [i | 1 for i in range(40)] * 20
    assert len(caplog.records) == 20


def test_it_pickles():
    source = SkipCorrupt(Numbers(10, (3,)), 1)
    source[3]
    again = pickle.loads(pickle.dumps(source))
    assert [again[i]["label"] for i in range(10)] == [source[i]["label"] for i in range(10)]


def test_batches_of_training_do_not_notice():
    """The same numbers as of a source where the replacement had been the record all along."""
    corrupt = (5, 11, 12)
    found = training_batches(SkipCorrupt(Numbers(20, corrupt), 3), keep, seed=3, batch_size=5)
    whole = training_batches(Numbers(20, ()), keep, seed=3, batch_size=5)
    replaced = {5: 6, 11: 13, 12: 13}
    for _ in range(8):
        labels = next(whole)["label"]
        assert next(found)["label"].tolist() == [replaced.get(i, i) for i in labels.tolist()]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_beyond_the_limit_training_ends_with_one_line(workers):
    flags.FLAGS.mark_as_parsed()
    source = SkipCorrupt(Numbers(20, tuple(range(0, 20, 3))), 1)
    stream = training_batches(source, keep, seed=0, batch_size=10, workers=workers)
    with pytest.raises(UserError, match="2 records cannot be read; expected at most 1; the last: ") as error:
        for _ in range(4):
            next(stream)
    assert "\n" not in str(error.value)


def test_a_disk_that_fails_ends_the_run_and_replaces_nothing(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "train" / name / "1.png")
    source = SkipCorrupt(FolderSource(tmp_path, "train"), 10)
    monkeypatch.setattr(retry, "WAITS", (0,))
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.parent.name == "b":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert [source[i]["label"] for i in (0, 2)] == [0, 2]
    with pytest.raises(UserError, match=rf"^{tmp_path}/train/b/1\.png cannot be read: Stale file handle"):
        source[1]
    (tmp_path / "train" / "c" / "1.png").unlink()
    with pytest.raises(UserError, match=r"c/1\.png: no such image file"):
        source[2]
