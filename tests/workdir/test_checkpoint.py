import contextlib
import errno
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from qsdt_jax.errors import UserError
from qsdt_jax.workdir import checkpoint
from qsdt_jax.workdir.checkpoint import Checkpointer, restore_raw
from qsdt_jax.workdir.integrity import leaves_of, nested
from qsdt_jax.workdir.stored import best_step, stored_steps
from tests.disks import file_size_limit, mounted

METRIC = "eval/top1"


class State(struct.PyTreeNode):
    step: Any
    variables: Any
    opt_state: Any
    ema: Any


def state_of(step: int, size: int = 40, ema: bool = True) -> State:
    """A state that is a pure function of the step; `size` is the side of a square kernel."""
    rng = np.random.default_rng(step)
    variables = {
        "params": {
            "head": {"kernel": rng.normal(size=(size, size)).astype(np.float32)},
            "alpha": np.array(rng.normal(), np.float32),
        },
        "batch_stats": {"bn": {"mean": rng.normal(size=7).astype(ml_dtypes.bfloat16)}},
    }
    return State(
        step=np.array(step, np.int32),
        variables=variables,
        opt_state=optax.adamw(1e-3).init(variables["params"]),
        ema=variables if ema else None,
    )


def described(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_same(actual, expected):
    """Same structure, dtypes, shapes and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def latest(checkpointer: Checkpointer, target) -> tuple[int, Any]:
    """The newest valid step, which is there."""
    restored = checkpointer.restore_latest(target)
    assert restored is not None
    return restored


def assert_latest(directory: Path, step: int, **options):
    """The newest valid step is `step`, with the bits of `state_of(step)`."""
    with Checkpointer(directory) as checkpointer:
        found, state = latest(checkpointer, described(state_of(0, **options)))
        assert found == step
        assert_same(state, state_of(step, **options))


def stored(directory: Path, *steps: int, **options) -> Path:
    """`directory` with these steps saved."""
    with Checkpointer(directory, keep_latest=10) as checkpointer:
        for step in steps:
            checkpointer.save(step, state_of(step, **options))
    return directory


def files_of(directory: Path, step: int) -> list[Path]:
    return sorted(file for file in (directory / str(step)).rglob("*") if file.is_file())


def contents(directory: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(directory.rglob("*")) if file.is_file()}


def flip_bit(file: Path, bit: int):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def damage(directory: Path, step: int):
    """Flips a bit of the largest file, which holds the arrays."""
    file = max(files_of(directory, step), key=lambda file: file.stat().st_size)
    flip_bit(file, file.stat().st_size * 4)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Saving and restoring


def test_train_state_comes_back_in_its_own_structure(tmp_path):
    for ema in (True, False):
        directory = stored(tmp_path / str(ema), 3, ema=ema)
        assert_latest(directory, 3, ema=ema)


def test_nothing_stored(tmp_path):
    with Checkpointer(tmp_path / "new" / "folder") as checkpointer:
        assert checkpointer.restore_latest(described(state_of(0))) is None
        assert checkpointer.steps() == []
    assert best_step(tmp_path / "new" / "folder", METRIC) is None


NANS = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0x00000001], np.uint32)


@pytest.mark.parametrize(
    "leaf",
    [
        NANS.view(np.float32),
        np.array([0x7FC1, 0xFF81, 0x8000, 0x3F80], np.uint16).view(ml_dtypes.bfloat16),
        np.array([0x7FF8000000000001, 0xFFF0000000000001, 5], np.uint64).view(np.float64),
        np.array([-(2**31), 2**31 - 1], np.int32),
        np.array([True, False]),
        np.array([-128, 127], np.int8),
        np.array(1.5, np.float32),
        np.array(7, np.int32),
        np.array(-0.0, ml_dtypes.bfloat16),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    ],
    ids=lambda leaf: f"{leaf.dtype}{leaf.shape}",
)
def test_every_bit_comes_back(tmp_path, leaf):
    with jax.enable_x64(True):
        state = {
            "numpy": leaf,
            "jax": jnp.asarray(leaf),
            "none": None,
            "empty": (),
            "optax": optax.EmptyState(),
        }
        with Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, state)
            restored = checkpointer.restore(1, state)
            assert isinstance(restored["numpy"], np.ndarray)
            assert isinstance(restored["jax"], jax.Array)
            assert_same(restored, state)
            assert_same(checkpointer.restore(1, described(state)), state)


def test_python_numbers_come_back(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"epoch": 3, "rate": 0.1})
        restored = checkpointer.restore(1, {"epoch": 0, "rate": 0.0})
    assert restored == {"epoch": 3, "rate": 0.1}
    assert type(restored["epoch"]) is int and type(restored["rate"]) is float


def test_buffers_may_change_as_soon_as_save_returns(tmp_path):
    """A donating step and an overwritten NumPy array right after save."""

    def fill(state):
        return jax.tree.map(lambda leaf: leaf * 0 + 7, state)

    update = jax.jit(fill, donate_argnums=0)
    host = np.zeros((1000, 1000), np.float32)
    weights = jax.ShapeDtypeStruct((3000, 1000), jnp.float32)
    with Checkpointer(tmp_path, keep_latest=10) as checkpointer:
        for step in range(1, 5):
            state = {"w": jnp.full(weights.shape, step, weights.dtype)}
            host[:] = step
            checkpointer.save(step, {"device": state, "host": host})
            old, state = state["w"], update(state)
            assert old.is_deleted()
            host[:] = -1
            jax.block_until_ready(state)
        for step in range(1, 5):
            restored = checkpointer.restore(step, {"device": {"w": weights}, "host": host})
            assert np.all(np.asarray(restored["device"]["w"]) == step)
            assert np.all(restored["host"] == step)


def test_restored_state_may_be_donated(tmp_path):
    directory = stored(tmp_path, 1)
    with Checkpointer(directory) as checkpointer:
        first = checkpointer.restore(1, described(state_of(0)))
        jax.block_until_ready(jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(first))
        assert_same(checkpointer.restore(1, described(state_of(0))), state_of(1))


def test_save_returns_before_the_checkpoint_is_written(tmp_path, monkeypatch):
    """The write is held up; save must return all the same, and wait must not."""
    gate = threading.Event()
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *paths: (gate.wait(20), rename(*paths))[1])
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state_of(1))
        assert checkpointer.steps() == []
        gate.set()
        checkpointer.wait()
        assert checkpointer.steps() == [1]
        checkpointer.save(2, state_of(2), wait=True)
        assert checkpointer.steps() == [1, 2]


def test_leaving_by_an_exception_finishes_the_save(tmp_path):
    with pytest.raises(ZeroDivisionError), Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state_of(1, size=1000))
        raise ZeroDivisionError
    assert_latest(tmp_path, 1, size=1000)


def test_close_twice(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state_of(1))
        checkpointer.close()
    assert_latest(tmp_path, 1)


def test_same_step_is_not_written_again(tmp_path):
    with Checkpointer(stored(tmp_path, 1, 2)) as checkpointer:
        before = contents(tmp_path)
        checkpointer.save(1, state_of(9))
        checkpointer.save(2, state_of(9))
        checkpointer.wait()
        assert contents(tmp_path) == before
        checkpointer.save(3, state_of(3))
        checkpointer.save(3, state_of(9))
    assert_latest(tmp_path, 3)


def test_earlier_step_is_an_error(tmp_path):
    with (
        Checkpointer(stored(tmp_path, 5)) as checkpointer,
        pytest.raises(UserError, match=r"step 4 cannot be saved: .* holds step 5") as error,
    ):
        checkpointer.save(4, state_of(4))
    one_line(error)
    assert_latest(tmp_path, 5)


def test_restore_raw(tmp_path):
    directory = stored(tmp_path, 1, 2)
    step, tree = restore_raw(directory)
    assert step == 2
    assert sorted(tree) == ["ema", "opt_state", "step", "variables"]
    kernel = tree["variables"]["params"]["head"]["kernel"]
    assert isinstance(kernel, np.ndarray)
    assert_same(kernel, state_of(2).variables["params"]["head"]["kernel"])
    assert_same(tree["opt_state"]["0"]["mu"]["alpha"], state_of(2).opt_state[0].mu["alpha"])
    assert restore_raw(directory, 1)[1]["step"] == 1

    damage(directory, 2)
    before = contents(directory)
    assert restore_raw(directory)[0] == 1
    with pytest.raises(UserError, match=r"step 2 in .* is damaged"):
        restore_raw(directory, 2)
    with pytest.raises(UserError, match=r"holds no checkpoint of step 7; it holds steps \[1, 2\]"):
        restore_raw(directory, 7)
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore_raw(directory / "nowhere")
    assert contents(directory) == before


# Damage


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("three"), 1, 2, 3)


@pytest.fixture
def checkpoints(three_steps, tmp_path):
    """A copy of three good checkpoints."""
    return shutil.copytree(three_steps, tmp_path / "checkpoints")


def arrays_and_record(directory: Path, step: int) -> list[Path]:
    """The file that holds the arrays, and the record."""
    arrays = max(files_of(directory, step), key=lambda file: file.stat().st_size)
    return [arrays, directory / str(step) / "integrity" / "metadata"]


def test_flipped_bit_of_an_array_or_the_record_is_detected(checkpoints):
    rng = random.Random(0)
    for file in arrays_and_record(checkpoints, 3):
        good = file.read_bytes()
        for _ in range(40):
            # Orbax leaves an index that it never reads at the end of the arrays.
            flip_bit(file, int(rng.uniform(0.1, 0.8) * len(good) * 8))
            assert restore_raw(checkpoints)[0] == 2
            file.write_bytes(good)
    assert restore_raw(checkpoints)[0] == 3


@pytest.mark.slow
def test_flipped_bit_anywhere_is_detected_or_does_no_harm(checkpoints):
    rng = random.Random(1)
    for file in files_of(checkpoints, 3):
        good = file.read_bytes()
        for _ in range(5 if good else 0):
            flip_bit(file, rng.randrange(len(good) * 8))
            step, tree = restore_raw(checkpoints)
            assert_same(tree, nested(leaves_of(state_of(step))[0]))
            file.write_bytes(good)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.8])
def test_truncated_file_is_detected(checkpoints, part):
    for file in [*arrays_and_record(checkpoints, 3), checkpoints / "3" / "state" / "manifest.ocdbt"]:
        good = file.read_bytes()
        file.write_bytes(good[: int(len(good) * part)])
        assert restore_raw(checkpoints)[0] == 2
        file.write_bytes(good)


def test_missing_file_is_detected(checkpoints):
    for file in [*arrays_and_record(checkpoints, 3), checkpoints / "3" / "state" / "manifest.ocdbt"]:
        good = file.read_bytes()
        file.unlink()
        assert restore_raw(checkpoints)[0] == 2
        file.write_bytes(good)


def test_damaged_step_is_reported_renamed_and_saved_again(checkpoints, caplog):
    damage(checkpoints, 3)
    before = {
        checkpoints / "3.damaged" / file.relative_to(checkpoints / "3"): content
        for file, content in contents(checkpoints / "3").items()
    }
    with Checkpointer(checkpoints) as checkpointer:
        step, state = latest(checkpointer, described(state_of(0)))
        assert step == 2
        assert_same(state, state_of(2))
        assert checkpointer.steps() == [1, 2]
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warnings[0].startswith(f"checkpoint of step 3 in {checkpoints} is damaged (")
        assert warnings[0].endswith("; trying the one before")
        assert warnings[1:] == [f"renamed the damaged checkpoint of step 3 in {checkpoints} to 3.damaged"]
        assert contents(checkpoints / "3.damaged") == before
        # Training repeats the step; the new one must not be dropped.
        checkpointer.save(3, state_of(3))
    assert_latest(checkpoints, 3)


def test_renamed_steps_are_kept_and_count_as_none(checkpoints):
    """Neither a second one of the same step nor retention, now or after a restart, touches them."""
    kept = {}
    for name in ("3.damaged", "3.damaged.2"):
        damage(checkpoints, 3)
        before = contents(checkpoints / "3")
        with Checkpointer(checkpoints, keep_latest=2, keep_best=1) as checkpointer:
            assert latest(checkpointer, described(state_of(0)))[0] == 2
            kept[name] = contents(checkpoints / name)
            assert list(kept[name].values()) == list(before.values())
            checkpointer.save(3, state_of(3))
            checkpointer.add_metrics(3, {METRIC: 1.0})
            checkpointer.wait()
            assert checkpointer.steps() == [2, 3]
    with Checkpointer(checkpoints, keep_latest=1, keep_best=0) as checkpointer:
        for step in (4, 5):
            checkpointer.save(step, state_of(step))
        checkpointer.wait()
        assert checkpointer.steps() == [5]
    assert sorted(path.name for path in checkpoints.iterdir()) == ["3.damaged", "3.damaged.2", "5"]
    assert {name: contents(checkpoints / name) for name in kept} == kept


def test_renaming_never_replaces_a_folder(checkpoints):
    """Not even an empty one, or a link to nothing, which os.rename or a look would take for free."""
    (checkpoints / "3.damaged").mkdir()
    (checkpoints / "3.damaged.2").symlink_to("nowhere")
    damage(checkpoints, 3)
    assert_latest(checkpoints, 2)
    assert sorted(path.name for path in checkpoints.iterdir())[2:] == [
        "3.damaged",
        "3.damaged.2",
        "3.damaged.3",
    ]
    assert not list((checkpoints / "3.damaged").iterdir())


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_step_that_cannot_be_renamed(checkpoints, monkeypatch, code):
    def refuse(old, new):
        raise OSError(code, os.strerror(code))

    damage(checkpoints, 3)
    before = contents(checkpoints)
    with Checkpointer(checkpoints) as checkpointer:
        monkeypatch.setattr("os.rename", refuse)
        with pytest.raises(UserError) as error:
            checkpointer.restore_latest(described(state_of(0)))
    assert one_line(error) == (
        f"the damaged checkpoint of step 3 in {checkpoints} cannot be renamed to 3.damaged: "
        f"{os.strerror(code)}; move it away, and the same command goes on from the step before"
    )
    assert contents(checkpoints) == before


def test_a_process_beside_the_one_that_writes_renames_nothing(checkpoints, monkeypatch):
    damage(checkpoints, 3)
    before = contents(checkpoints)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Checkpointer(checkpoints) as checkpointer:
        assert latest(checkpointer, described(state_of(0)))[0] == 2
    assert contents(checkpoints) == before


def test_nothing_is_renamed_before_all_processes_agree(checkpoints, monkeypatch):
    damage(checkpoints, 3)
    before = contents(checkpoints)
    compared = []

    def differ(numbers, *, seen):
        compared.append(numbers)
        assert contents(checkpoints) == before
        raise UserError("not the same")

    monkeypatch.setattr(checkpoint, "require_same", differ)
    with Checkpointer(checkpoints) as checkpointer, pytest.raises(UserError, match="not the same"):
        checkpointer.restore_latest(described(state_of(0)))
    assert contents(checkpoints) == before
    assert [list(numbers.values()) for numbers in compared] == [[2, checkpointer.checksum(2)]]


def test_falls_back_over_several(checkpoints):
    damage(checkpoints, 3)
    shutil.rmtree(checkpoints / "2" / "state")
    (checkpoints / "17").mkdir()
    assert_latest(checkpoints, 1)
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "1",
        "17.damaged",
        "2.damaged",
        "3.damaged",
    ]


def test_all_damaged_is_an_error_and_renames_nothing(checkpoints):
    for step in (1, 2, 3):
        damage(checkpoints, step)
    before = contents(checkpoints)
    with (
        Checkpointer(checkpoints) as checkpointer,
        pytest.raises(UserError, match=r"all checkpoints .* are damaged \(steps \[1, 2, 3\]\)") as error,
    ):
        checkpointer.restore_latest(described(state_of(0)))
    one_line(error)
    assert contents(checkpoints) == before


def test_restoring_a_damaged_or_missing_step_is_an_error(checkpoints):
    damage(checkpoints, 2)
    before = contents(checkpoints)
    with Checkpointer(checkpoints) as checkpointer:
        with pytest.raises(UserError, match=r"step 2 in .* is damaged: checksum of .* is wrong") as error:
            checkpointer.restore(2, described(state_of(0)))
        one_line(error)
        with pytest.raises(UserError, match=r"no checkpoint of step 4; it holds steps \[1, 2, 3\]"):
            checkpointer.restore(4, described(state_of(0)))
    assert contents(checkpoints) == before


def test_empty_directory_and_leftovers_are_skipped(checkpoints):
    (checkpoints / "9").mkdir()
    shutil.copytree(checkpoints / "3", checkpoints / "8.orbax-checkpoint-tmp")
    (checkpoints / "notes").mkdir()
    (checkpoints / "12").write_text("a file")
    assert_latest(checkpoints, 3)
    # The half-written one is cleared away as well.
    assert sorted(path.name for path in checkpoints.iterdir()) == ["1", "12", "2", "3", "9.damaged", "notes"]


# A good checkpoint of something else


def mismatch(directory: Path, target) -> str:
    before = contents(directory)
    with Checkpointer(directory) as checkpointer, pytest.raises(UserError) as error:
        checkpointer.restore_latest(target)
    assert contents(directory) == before
    return one_line(error)


def test_other_shapes_are_no_damage(checkpoints):
    text = mismatch(checkpoints, described(state_of(0, size=41)))
    assert "variables/params/head/kernel: expected float32[41,41], found float32[40,40]" not in text
    assert "ema/params/head/kernel: expected float32[41,41], found float32[40,40]" in text
    assert "step 3" in text and text.endswith("; and 1 more")


def test_missing_and_extra_leaves_are_no_damage(checkpoints):
    text = mismatch(checkpoints, described(state_of(0, ema=False)))
    assert "ema/params/alpha: expected nothing, found float32[]" in text
    target = described(state_of(0))
    target.variables["batch_stats"]["new"] = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    text = mismatch(checkpoints, target)
    assert "variables/batch_stats/new: expected int32[2,3], found nothing" in text


def test_other_dtype_is_no_damage(checkpoints):
    target = described(state_of(0))
    target.variables["batch_stats"]["bn"]["mean"] = jax.ShapeDtypeStruct((7,), jnp.float32)
    assert "bn/mean: expected float32[7], found bfloat16[7]" in mismatch(checkpoints, target)


def test_mismatch_behind_a_damaged_step_renames_nothing(checkpoints):
    (checkpoints / "3" / "integrity" / "metadata").unlink()
    assert "step 2" in mismatch(checkpoints, described(state_of(0, size=41)))


def test_float64_without_x64_is_no_damage(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"w": np.arange(3.0)})
    text = mismatch(tmp_path, {"w": jax.ShapeDtypeStruct((3,), np.float64)})
    assert "w: expected float32[3], found float64[3]" in text


# Retention


@pytest.mark.parametrize("reopen", [False, True], ids=["one run", "resumed after each save"])
def test_keeps_latest_and_best(tmp_path, reopen):
    scores = {1: 10.0, 2: 50.0, 3: 20.0, 4: None, 5: float("nan"), 6: 40.0, 7: 30.0}
    kept = {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [2, 4, 5], 6: [2, 5, 6], 7: [2, 6, 7]}
    with contextlib.ExitStack() as stack:
        checkpointer = stack.enter_context(Checkpointer(tmp_path, best_metric=METRIC))
        for step, score in scores.items():
            checkpointer.save(step, state_of(step))
            if score is not None:
                checkpointer.add_metrics(step, {METRIC: score})
            checkpointer.wait()
            assert checkpointer.steps() == kept[step]
            if reopen:
                checkpointer = stack.enter_context(Checkpointer(tmp_path, best_metric=METRIC))
        assert best_step(tmp_path, METRIC) == 2
        assert_same(checkpointer.restore(2, described(state_of(0))), state_of(2))


def test_keep_counts(tmp_path):
    with Checkpointer(tmp_path, keep_latest=1, keep_best=2, best_metric="m") as checkpointer:
        for step, score in enumerate([5.0, 4.0, 3.0, 5.0, 1.0]):
            checkpointer.save(step, state_of(step))
            checkpointer.add_metrics(step, {"m": score, "other": -score})
        checkpointer.wait()
        assert checkpointer.steps() == [0, 3, 4]
        assert best_step(tmp_path, "m") == 3  # The newest of equals.
    with Checkpointer(tmp_path, keep_latest=1, keep_best=0) as checkpointer:
        checkpointer.save(9, state_of(9))
        checkpointer.wait()
        assert checkpointer.steps() == [9]
    with pytest.raises(UserError, match="keep_latest 0"):
        Checkpointer(tmp_path, keep_latest=0)


def test_the_best_can_be_the_smallest(tmp_path):
    smallest = {"best_metric": "m", "larger_is_better": False}
    with Checkpointer(tmp_path, keep_latest=1, keep_best=1, **smallest) as checkpointer:
        for step, score in enumerate([5.0, 2.0, 2.0, math.nan, 3.0]):
            checkpointer.save(step, state_of(step))
            checkpointer.add_metrics(step, {"m": score})
        checkpointer.wait()
        assert checkpointer.steps() == [2, 4]
    assert best_step(tmp_path, "m", larger_is_better=False) == 2  # The newest of equals.
    assert best_step(tmp_path, "m") == 4


def test_metrics_can_come_later(tmp_path):
    """A run interrupted between saving and evaluating adds its metrics when it is resumed."""
    directory = stored(tmp_path, 1)
    with Checkpointer(directory) as checkpointer:
        assert best_step(directory, METRIC) is None
        checkpointer.add_metrics(1, {METRIC: 90})
        checkpointer.add_metrics(1, {METRIC: 10})
        assert best_step(directory, METRIC) == 1
        checkpointer.save(2, state_of(2))
        checkpointer.add_metrics(2, {METRIC: 50})
    with Checkpointer(directory) as checkpointer:
        assert best_step(directory, METRIC) == 1
        assert_same(checkpointer.restore(1, described(state_of(0))), state_of(1))


def test_metrics_that_come_later_supersede_the_best_step(tmp_path):
    with Checkpointer(tmp_path, keep_latest=1, keep_best=1, best_metric=METRIC) as checkpointer:
        checkpointer.save(1, state_of(1))
        checkpointer.add_metrics(1, {METRIC: 10})
        checkpointer.save(2, state_of(2), wait=True)
        assert checkpointer.steps() == [1, 2]
        checkpointer.add_metrics(2, {METRIC: 20})
        assert checkpointer.steps() == [2]


def test_changed_metric_is_detected(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state_of(1))
        checkpointer.add_metrics(1, {METRIC: 10})
        checkpointer.save(2, state_of(2))
        checkpointer.add_metrics(2, {METRIC: 80})
    file = tmp_path / "2" / "integrity" / "metadata"
    text = file.read_text().replace("80.0", "90.0")
    assert json.loads(text)
    file.write_text(text)
    assert best_step(tmp_path, METRIC) == 1
    assert restore_raw(tmp_path)[0] == 1


# Disks


@pytest.mark.parametrize("at", ["wait", "next save", "leaving"])
def test_failed_write_in_the_background(tmp_path, at, caplog):
    stored(tmp_path, 1, 2)
    with (
        pytest.raises(UserError, match=r"step 3 could not be written to .*: File too large") as error,
        file_size_limit(100_000),
        Checkpointer(tmp_path, keep_latest=1) as checkpointer,
    ):
        checkpointer.save(3, state_of(3, size=1000))
        if at == "wait":
            checkpointer.wait()
        elif at == "next save":
            checkpointer.save(4, state_of(4))
    assert "stored are steps [1, 2]" in one_line(error)
    assert not [record for record in caplog.records if record.exc_info]
    # A write still under way can come after the first clearing.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert_latest(tmp_path, 2)
        if sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]:
            return
    pytest.fail("half-written files are never cleared away")


def test_saving_goes_on_after_a_failed_write(tmp_path):
    with Checkpointer(stored(tmp_path, 1, 2), keep_latest=1) as checkpointer:
        with file_size_limit(100_000), pytest.raises(UserError):
            checkpointer.save(3, state_of(3, size=1000), wait=True)
        assert checkpointer.steps() == [1, 2]
        checkpointer.save(3, state_of(3), wait=True)
        assert checkpointer.steps() == [3]
    assert_latest(tmp_path, 3)


def test_failed_write_does_not_hide_the_first_exception(tmp_path, caplog):
    with pytest.raises(ZeroDivisionError), file_size_limit(100_000), Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, state_of(3, size=1000))
        raise ZeroDivisionError
    assert "step 3 could not be written" in caplog.text


def test_closing_that_fails_does_not_hide_the_first_exception(tmp_path, monkeypatch, caplog):
    with pytest.raises(ZeroDivisionError), Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpointer, "wait", lambda: [][0])
        raise ZeroDivisionError
    assert "IndexError" in caplog.text


@pytest.mark.parametrize("forewarned", [True, False])
def test_full_disk(tmp_path, monkeypatch, forewarned):
    """A file system of 4 MB; without the look at the free space orbax itself runs into its end."""
    with mounted(tmp_path / "disk", "size=4m") as disk:
        if not forewarned:
            plenty = types.SimpleNamespace(free=1 << 40)
            monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: plenty)
        with Checkpointer(disk) as checkpointer:
            checkpointer.save(1, state_of(1, size=300))
            checkpointer.save(2, state_of(2, size=300))
            with pytest.raises(UserError, match="step 3 could not be written to") as error:
                checkpointer.save(3, state_of(3, size=700), wait=True)
            reason = "expected 7.8 MB of free space, found" if forewarned else os.strerror(errno.ENOSPC)
            assert reason in one_line(error)
        assert_latest(disk, 2, size=300)


def test_read_only_directory(tmp_path):
    with mounted(tmp_path / "disk", "size=1m", "ro") as disk:
        with pytest.raises(UserError, match="disk cannot be written: Read-only file system") as error:
            Checkpointer(disk)
        one_line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_directory_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        Checkpointer(tmp_path / "checkpoints")


def test_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        with pytest.raises(UserError, match="is a file; expected a directory") as error:
            Checkpointer(path)
        one_line(error)


# Other processes


def in_process(function, *arguments) -> BaseProcess:
    """Starts `function` in a process of its own, which has imported the modules but no device."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flax", "optax", "pytest", "qsdt_jax.workdir.checkpoint"])
    process = context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def save_for_ever(directory: Path, first: int):
    with Checkpointer(directory, best_metric=METRIC) as checkpointer:
        for step in range(first, 1_000_000):
            checkpointer.save(step, state_of(step, size=300))
            checkpointer.add_metrics(step, {METRIC: step % 7})


def being_written(directory: Path) -> bool:
    return any(directory.glob("*.orbax-checkpoint-tmp*"))


@pytest.mark.slow
def test_kill_at_any_moment(tmp_path):
    """Every second time while a checkpoint is being written, unless that ends before the signal is there."""
    rng = random.Random(0)
    last = unfinished = rounds = 0
    while rounds < 8 or (unfinished < 3 and rounds < 40):
        process = in_process(save_for_ever, tmp_path, last + 1)
        deadline = time.monotonic() + 60
        while max(stored_steps(tmp_path), default=0) <= last and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.3))
        while rounds % 2 and not being_written(tmp_path) and time.monotonic() < deadline:
            pass
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        unfinished += being_written(tmp_path)
        with Checkpointer(tmp_path) as checkpointer:
            step, state = latest(checkpointer, described(state_of(0, size=300)))
        assert step > last
        assert_same(state, state_of(step, size=300))
        last, rounds = step, rounds + 1
    assert unfinished >= 3  # Otherwise no save was interrupted and nothing was tested.


def placed_on(devices: int, tree):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])

    def sharding(leaf):
        return NamedSharding(mesh, PartitionSpec("data") if np.ndim(leaf) == 2 else PartitionSpec())

    shardings = jax.tree.map(sharding, tree)
    return jax.device_put(tree, shardings), shardings


def save_on_two_restore_on_four(directory: Path):
    jax.config.update("jax_num_cpu_devices", 4)
    state, _ = placed_on(2, state_of(5))
    with Checkpointer(directory) as checkpointer:
        checkpointer.save(5, state)
        for devices in (4, 1):
            _, shardings = placed_on(devices, state_of(0))
            target = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                state_of(0),
                shardings,
            )
            _, restored = latest(checkpointer, target)
            assert jax.tree.map(lambda leaf: leaf.sharding, restored) == shardings
            assert_same(restored, state_of(5))


def test_restores_onto_another_mesh(tmp_path):
    process = in_process(save_on_two_restore_on_four, tmp_path)
    process.join(60)
    assert process.exitcode == 0
    assert_latest(tmp_path, 5)


PRELUDE = """
import logging, resource, sys
logging.basicConfig(level=logging.INFO)
from pathlib import Path
import numpy as np
from qsdt_jax.errors import UserError
from qsdt_jax.workdir.checkpoint import Checkpointer
directory = Path(sys.argv[1])
state = {f"w{i}": np.random.default_rng(i).normal(size=1000) for i in range(40)}
"""

GOES_WELL = """
for start in (0, 3):
    with Checkpointer(directory) as checkpointer:
        checkpointer.restore_latest(state)
        for step in range(start, start + 3):
            checkpointer.save(step, state)
            checkpointer.add_metrics(step, {"eval/top1": step})
"""

GOES_WRONG = """
with Checkpointer(directory) as checkpointer:
    checkpointer.save(1, state)
    checkpointer.save(2, state)
(directory / "2" / "state" / "manifest.ocdbt").write_bytes(b"rubbish")
with Checkpointer(directory) as checkpointer:
    checkpointer.restore_latest(state)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        checkpointer.save(3, state, wait=True)
    except UserError as error:
        sys.exit(f"error: {error}")
"""


def stderr_of(program: str, directory: Path) -> list[str]:
    """Lines on stderr, without jax's about the devices that it looks for."""
    command = [sys.executable, "-c", PRELUDE + program, directory]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == ""
    return [line for line in result.stderr.splitlines() if "jax._src" not in line]


@pytest.mark.slow
def test_says_nothing_when_all_is_well(tmp_path):
    assert stderr_of(GOES_WELL, tmp_path) == []


@pytest.mark.slow
def test_one_line_for_each_misfortune(tmp_path):
    lines = stderr_of(GOES_WRONG, tmp_path)
    assert len(lines) == 3, lines
    assert lines[0].startswith(f"WARNING:absl:checkpoint of step 2 in {tmp_path} is damaged")
    assert lines[1] == (f"WARNING:absl:renamed the damaged checkpoint of step 2 in {tmp_path} to 2.damaged")
    assert lines[2].startswith(f"error: the checkpoint of step 3 could not be written to {tmp_path}")
