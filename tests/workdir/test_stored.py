"""What counts as damage of a checkpoint, and what is a failure to read it."""

import errno
import json
import os
import shutil

import pytest

from qsdt_jax import retry
from qsdt_jax.errors import UserError
from qsdt_jax.workdir import stored
from qsdt_jax.workdir.checkpoint import Checkpointer, restore_raw
from qsdt_jax.workdir.integrity import sealed
from tests.workdir.test_checkpoint import (
    METRIC,
    assert_same,
    contents,
    damage,
    described,
    files_of,
    one_line,
    state_of,
)
from tests.workdir.test_checkpoint import stored as saved

RESTORE = "restore"
TARGET = described(state_of(0))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("two"), 1, 2)


@pytest.fixture
def checkpoints(two_steps, tmp_path):
    """A copy of two good checkpoints."""
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that were waited, instead of waiting."""
    waited = []
    monkeypatch.setattr(retry.time, "sleep", waited.append)
    return waited


def fail(monkeypatch, error, *, step=2, times=99):
    """Lets orbax fail with `error` where it reads a step, some times; how often it was asked to."""
    handler, asked = stored.ocp.StandardCheckpointHandler, []
    good = handler.restore

    def restore(self, path):
        if path.parent.name == str(step):
            asked.append(step)
            if len(asked) <= times:
                raise error
        return good(self, path)

    monkeypatch.setattr(handler, RESTORE, restore)
    return asked


def code_in_text(code: int) -> ValueError:
    """As tensorstore tells it."""
    text = f'Error reading "w/0.0": Error reading local file "x": [os_error_code=\'{code}\']'
    return ValueError(f"DATA_LOSS: {text} [tensorstore_spec='{{\"context\":{{}}}}']")


CODES = [
    "ESTALE",
    "EIO",
    "ETIMEDOUT",
    "EAGAIN",
    "ENOMEM",
    "EACCES",
    "EMFILE",
    "ENETDOWN",
    "EREMOTEIO",
    "EINTR",
]
NO_PROOF = [
    *(OSError(getattr(errno, name), name) for name in CODES),
    *(code_in_text(getattr(errno, name)) for name in CODES),
    TimeoutError(),
    MemoryError(),
    RuntimeError("can't start new thread"),
    SystemError("returned a result with an exception set"),
    ValueError('DEADLINE_EXCEEDED: Error reading "w/0.0"'),
    ValueError('UNAVAILABLE: Error reading "w/0.0"'),
    ValueError('RESOURCE_EXHAUSTED: Error reading "w/0.0"'),
]


@pytest.mark.parametrize("error", NO_PROOF, ids=repr)
def test_a_failure_that_passes_costs_nothing(checkpoints, monkeypatch, error, caplog, waits):
    before = contents(checkpoints)
    fail(monkeypatch, error, times=1)
    with Checkpointer(checkpoints) as checkpointer:
        restored = checkpointer.restore_latest(TARGET)
    assert restored is not None and restored[0] == 2
    assert_same(restored[1], state_of(2))
    assert contents(checkpoints) == before and waits == [retry.WAITS[0]]
    [line] = [record.getMessage() for record in caplog.records]
    assert "cannot be read" in line and line.endswith("trying again in 0.25 s")


@pytest.mark.parametrize("error", NO_PROOF, ids=repr)
@pytest.mark.parametrize("reader", ["latest", "raw", "one"])
def test_a_failure_that_stays_is_an_error_and_no_damage(checkpoints, monkeypatch, error, reader, waits):
    before = contents(checkpoints)
    fail(monkeypatch, error)
    with Checkpointer(checkpoints) as checkpointer, pytest.raises(UserError) as raised:
        match reader:
            case "latest":
                checkpointer.restore_latest(TARGET)
            case "raw":
                restore_raw(checkpoints)
            case "one":
                restore_raw(checkpoints, 2)
    assert one_line(raised).startswith(
        f"{checkpoints / '2' / 'state'} cannot be read: {retry.reason(error)}; "
    )
    assert "it was left alone" in one_line(raised)
    assert contents(checkpoints) == before and waits == list(retry.WAITS)


@pytest.mark.parametrize("file", ["integrity/metadata", "state/_METADATA"])
def test_what_the_kernel_cannot_read(checkpoints, file):
    """It answers EIO for what lies at address 0 of a process."""
    (checkpoints / "2" / file).unlink()
    (checkpoints / "2" / file).symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match="Input/output error") as raised, Checkpointer(checkpoints) as found:
        found.restore_latest(TARGET)
    assert "left alone" in one_line(raised) and stored.stored_steps(checkpoints) == [1, 2]


def test_what_tensorstore_cannot_read(checkpoints):
    """It takes a file that cannot be read for an empty one; reading the same as plain bytes tells."""
    for file in files_of(checkpoints, 2):
        if file.parent.name == "d" and file.parent.parent.name == "state":
            file.unlink()
            file.symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match="state cannot be read: Input/output error"):
        restore_raw(checkpoints)


def test_a_folder_that_cannot_be_listed(checkpoints, monkeypatch, waits):
    """A newer step that is not seen would be passed over without a word."""
    scan = os.scandir
    answers = iter([OSError(errno.ESTALE, "stale")] * 2)

    def scandir(path):
        if str(path) == str(checkpoints) and (error := next(answers, None)):
            raise error
        return scan(path)

    monkeypatch.setattr(stored.os, "scandir", scandir)
    assert stored.stored_steps(checkpoints) == [1, 2] and len(waits) == 2
    answers = iter([OSError(errno.ESTALE, "stale")] * 99)
    with pytest.raises(UserError, match=f"{checkpoints} cannot be read: {os.strerror(errno.ESTALE)}"):
        stored.stored_steps(checkpoints)


def test_damage_is_looked_at_twice(checkpoints, monkeypatch, caplog):
    before = contents(checkpoints)
    for error in (KeyError("key"), FileNotFoundError("_METADATA does not exist"), code_in_text(errno.ENOENT)):
        asked = fail(monkeypatch, error, times=1)
        assert restore_raw(checkpoints)[0] == 2 and len(asked) == 2
        assert "as whole when it was read again" in caplog.messages[-1]
    assert contents(checkpoints) == before


def test_what_orbax_alone_complains_of_is_asked_for_again_once_it_reads_another(
    checkpoints, monkeypatch, caplog
):
    before = contents(checkpoints)
    fail(monkeypatch, ValueError("nobody knows"), times=2)
    with Checkpointer(checkpoints) as checkpointer:
        restored = checkpointer.restore_latest(TARGET)
    assert restored is not None and restored[0] == 2
    assert_same(restored[1], state_of(2))
    assert contents(checkpoints) == before
    assert caplog.messages[-1] == f"checkpoint of step 2 in {checkpoints} could be read after all"


def test_a_wrong_checksum_is_believed_the_second_time(checkpoints, monkeypatch):
    damage(checkpoints, 2)
    asked = fail(monkeypatch, None, times=0)
    assert restore_raw(checkpoints)[0] == 1 and len(asked) == 2


def test_orbax_that_reads_nothing_at_all_shows_no_damage(checkpoints, monkeypatch):
    before = contents(checkpoints)
    for step in (1, 2):
        fail(monkeypatch, Exception("nobody knows"), step=step)
    with Checkpointer(checkpoints) as checkpointer, pytest.raises(UserError) as raised:
        checkpointer.restore_latest(TARGET)
    assert one_line(raised).startswith(
        f"all checkpoints in {checkpoints} are damaged (steps [1, 2]); of the "
    )
    assert "Exception: nobody knows" in one_line(raised)
    assert contents(checkpoints) == before


def test_bytes_that_change_show_nothing(checkpoints, monkeypatch):
    """A disk or a memory that gives other bits each time."""
    damage(checkpoints, 2)
    checksum, calls = stored._checksum, []

    def other(path):
        if path == checkpoints / "2" / "state":
            calls.append(path)
        return checksum(path) ^ len(calls)

    monkeypatch.setattr(stored, "_checksum", other)
    with Checkpointer(checkpoints) as checkpointer, pytest.raises(UserError, match="differently") as raised:
        checkpointer.restore_latest(TARGET)
    assert "it was left alone" in one_line(raised) and len(calls) == 2
    assert checkpointer.steps() == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"7",
        b"{}",
        b'{"record": 3, "crc32": 0}',
        json.dumps(sealed({})).encode(),
    ],
)
def test_a_record_that_is_none(checkpoints, content):
    (checkpoints / "2" / "integrity" / "metadata").write_bytes(content)
    assert restore_raw(checkpoints)[0] == 1
    with pytest.raises(UserError, match=r"step 2 in .* is damaged: integrity: ") as raised:
        restore_raw(checkpoints, 2)
    one_line(raised)
    assert stored.best_step(checkpoints, METRIC) is None


@pytest.mark.parametrize("instead", ["nothing", "a file", "an empty folder"])
def test_a_state_that_is_none(checkpoints, instead):
    state = checkpoints / "2" / "state"
    shutil.rmtree(state)
    if instead == "a file":
        state.write_text("")
    elif instead == "an empty folder":
        state.mkdir()
    assert restore_raw(checkpoints)[0] == 1
    with pytest.raises(UserError, match=r"step 2 in .* is damaged: ") as raised:
        restore_raw(checkpoints, 2)
    one_line(raised)


def test_a_score_that_cannot_be_read_is_not_taken_for_none(checkpoints):
    """Else another step would be the best one."""
    file = checkpoints / "2" / "integrity" / "metadata"
    file.unlink()
    file.symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match="Input/output error"):
        stored.best_step(checkpoints, METRIC)
