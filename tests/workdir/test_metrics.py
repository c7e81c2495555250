"""metrics.jsonl: what is kept of it when a run goes on, and what is damaged."""

import errno
import json
import os
from pathlib import Path

import pytest

from qsdt_jax import retry
from qsdt_jax.errors import UserError
from qsdt_jax.workdir import metrics
from qsdt_jax.workdir.metrics import MetricWriter, read_metrics
from tests.workdir.test_checkpoint import file_size_limit

NAME = "eval/top1"


def line(step: int, value: float) -> bytes:
    return json.dumps({"step": step, NAME: value}).encode() + b"\n"


def write(workdir: Path, *lines: bytes) -> Path:
    file = workdir / "metrics.jsonl"
    file.write_bytes(b"".join(lines))
    return file


def resumed(workdir: Path, step: int) -> tuple[list[int], bytes]:
    """Steps that a run resumed at `step` knows, and the file then with a line of the next step."""
    writer = MetricWriter(workdir, step)
    steps = writer.history.series(NAME)[0].tolist()
    writer.write(step + 1, {NAME: 1.0})
    writer.close()
    return steps, (workdir / "metrics.jsonl").read_bytes()


DAMAGED = [
    b'{"step": 2, "eval/top1": 9\n',
    b'{"stpe": 2, "eval/top1": 99.0}\n',
    b'{"step": 2.0, "eval/top1": 99.0}\n',
    b'{"step": "2", "eval/top1": 99.0}\n',
    b'{"step": true, "eval/top1": 99.0}\n',
    b'{"step": null, "eval/top1": 99.0}\n',
    b'{"step": -2, "eval/top1": 99.0}\n',
    b'{"step": 1e400, "eval/top1": 99.0}\n',
    b'{"step": ' + b"9" * 30 + b', "eval/top1": 99.0}\n',
    b'{"step": ' + b"9" * 6000 + b', "eval/top1": 99.0}\n',
    b'{"step": 2, "eval/top1": "99"}\n',
    b'{"step": 2, "eval/top1": null}\n',
    b'{"step": 2, "eval/top1": [99.0]}\n',
    b'{"step": 2, "eval/top1": ' + b"9" * 400 + b"}\n",
    b'{"step": 2, "eval/top1": 99.0}{"step": 2, "eval/top1": 99.0}\n',
    b"[2, 99.0]\n",
    b"2\n",
    b"null\n",
    b"\n",
    b"[" * 100_000 + b"\n",
    b'{"step": 2, "eval/\xff": 99.0}\n',
    b"\0" * 100 + line(2, 99.0),
    line(92, 99.0),  # A digit of a step that is not reached, in the middle of steps that are.
]


@pytest.mark.parametrize("bad", DAMAGED, ids=lambda bad: repr(bad[:40]))
def test_a_damaged_line_costs_that_line_alone(tmp_path, bad, caplog):
    good = line(1, 10.0), line(3, 30.0), line(4, 20.0)
    file = write(tmp_path, good[0], bad, *good[1:])
    before = file.read_bytes()
    reader = MetricWriter(tmp_path, 4, writes=False)
    assert reader.history.best(NAME) == (3, 30.0) and not caplog.messages
    if bad != line(92, 99.0):
        assert [found["step"] for found in read_metrics(tmp_path)] == [1, 3, 4]
    assert file.read_bytes() == before

    steps, after = resumed(tmp_path, 4)
    assert steps == [1, 3, 4] and after == b"".join(good) + line(5, 1.0)
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == before
    [told] = caplog.messages
    assert told.startswith(f"{file}: line 2 is damaged and left out") and "metrics.jsonl.damaged" in told


def test_damage_again_keeps_each_file(tmp_path, caplog):
    for name in ("metrics.jsonl.damaged", "metrics.jsonl.damaged.2"):
        file = write(tmp_path, b"{}\n", line(1, 1.0), b"x\n" * 4, line(2, 2.0))
        before = file.read_bytes()
        assert resumed(tmp_path, 2)[0] == [1, 2]
        assert (tmp_path / name).read_bytes() == before
        assert "line 1, 3, 4 and 2 more is damaged" in caplog.messages[-1] and name in caplog.messages[-1]


def test_later_and_half_written_lines_go_without_a_word(tmp_path, caplog):
    """Those of steps that are run again; the lines before them are not written again."""
    kept = [line(1, 1.0), line(2, 2.0)]
    for tail in (
        [line(3, 3.0)],
        [line(3, 3.0), line(4, 4.0)[:-7]],
        [b'{"ste'],
        [line(3, 3.0)[:-1]],
        [b"\0" * 9],
    ):
        file = write(tmp_path, *kept, *tail)
        number = file.stat().st_ino
        assert resumed(tmp_path, 2) == ([1, 2], b"".join(kept) + line(3, 1.0))
        assert file.stat().st_ino == number
    # A line that lacks nothing but its end.
    write(tmp_path, kept[0], kept[1].removesuffix(b"\n"))
    assert resumed(tmp_path, 2) == ([1, 2], b"".join(kept) + line(3, 1.0))
    write(tmp_path, *kept)
    assert resumed(tmp_path, 0) == ([], line(1, 1.0))
    assert not caplog.messages and sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "tensorboard"]


def test_damage_before_later_and_half_written_lines(tmp_path):
    write(tmp_path, line(1, 1.0), b"x\n", line(2, 2.0), line(3, 3.0), b"y\n", b'{"step": 3')
    assert resumed(tmp_path, 2) == ([1, 2], line(1, 1.0) + line(2, 2.0) + line(3, 1.0))


def test_a_file_that_is_whole_is_not_touched(tmp_path):
    file = write(tmp_path, line(1, 1.0), line(2, float("nan")))
    os.utime(file, (1, 1))
    MetricWriter(tmp_path, 2).close()
    assert file.stat().st_mtime == 1


def test_a_read_error_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    file = write(tmp_path, line(1, 1.0), line(2, 2.0))
    before, lines = file.read_bytes(), metrics._lines
    errors = iter([OSError(errno.ESTALE, "stale")])

    def failing(file):
        for number, found in enumerate(lines(file)):
            if number == 1 and (error := next(errors, None)):
                raise error
            yield found

    monkeypatch.setattr(metrics, "_lines", failing)
    assert MetricWriter(tmp_path, 2, writes=False).history.series(NAME)[0].tolist() == [1, 2]
    errors = iter([OSError(errno.ESTALE, "stale")] * 99)
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be read: .*left alone"):
        MetricWriter(tmp_path, 2)
    assert file.read_bytes() == before
    file.unlink()
    file.mkdir()
    for read in (read_metrics, lambda workdir: MetricWriter(workdir, 2)):
        with pytest.raises(UserError, match=r"metrics.jsonl cannot be read: Is a directory"):
            read(tmp_path)


def test_a_full_disk_is_told_once(tmp_path, caplog):
    """The line that was not written is dropped at the next start; closing raises nothing on top."""
    with file_size_limit(200):
        writer = MetricWriter(tmp_path, 0)
        with pytest.raises(UserError, match=r"metrics.jsonl cannot be written: File too large"):
            for step in range(1, 99):
                writer.write(step, {NAME: float(step)})
        last = int(writer.history.series(NAME)[0][-1])
        writer.close()
    assert "cannot be closed" in caplog.text
    steps, content = resumed(tmp_path, last)
    assert steps == list(range(1, last + 1)) and content.endswith(
        line(last, float(last)) + line(last + 1, 1.0)
    )
