import struct

import pytest
from tensorboardX.proto import event_pb2

from qsdt_jax.workdir.board import Board
from qsdt_jax.workdir.metrics import MetricWriter
from tests.workdir.test_checkpoint import file_size_limit

METRICS = {"train/loss": 1.5, "train/learning_rate": 0.25}


def events(folder) -> list[list[event_pb2.Event]]:
    """Those of each file, read as TFRecords."""
    files = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        content, found = file.read_bytes(), []
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
        files.append(found)
    return files


def test_what_tensorboard_reads(tmp_path):
    board = Board(tmp_path / "tensorboard", 0)
    board.add(1, METRICS)
    board.add(2, {"eval/top1": float("nan")})
    board.close()
    [[version, first, second]] = events(tmp_path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert first.step == 1 and {v.tag: v.simple_value for v in first.summary.value} == METRICS
    assert second.step == 2 and second.summary.value[0].simple_value != second.summary.value[0].simple_value


def test_a_resumed_run_hides_what_it_runs_again(tmp_path):
    for step in (0, 7):
        board = Board(tmp_path, step)
        board.add(step + 1, METRICS)
        board.close()
    # Both starts of one process within a second.
    _, resumed = events(tmp_path)
    assert (resumed[1].step, resumed[1].session_log.status) == (8, event_pb2.SessionLog.START)
    assert resumed[2].step == 8


@pytest.mark.parametrize("close_at", [5, 5000])
def test_a_full_disk_is_one_warning(tmp_path, caplog, close_at):
    """While it writes, or as late as when it is closed; it once waited for ever."""
    with file_size_limit(100):
        board = Board(tmp_path, 0)
        for step in range(1, close_at):
            board.add(step, METRICS)
        board.close()
    assert caplog.messages == ["TensorBoard's file cannot be written: File too large; the run does without"]


def test_a_folder_that_cannot_be_made(tmp_path, caplog):
    """The metrics are written all the same."""
    (tmp_path / "tensorboard").write_text("a file")
    writer = MetricWriter(tmp_path, 0)
    for step in (1, 2):
        writer.write(step, METRICS)
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    [told] = caplog.messages
    assert told.startswith("TensorBoard's file cannot be written: File exists")
