"""Several processes are one run: they agree, stop together, and go on in any number."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from qsdt_jax.workdir.checkpoint import Checkpointer, restore_raw
from qsdt_jax.workdir.integrity import leaves_of
from qsdt_jax.workdir.metrics import read_metrics
from qsdt_jax.workdir.workdir import Workdir
from tests.processes.test_meeting import free_port
from tests.processes.together import BATCH, STEPS, Start, begin, build
from tests.train.runs import forked

ROOT = Path(__file__).parents[2]
DEADLINE, STOP_SECONDS = 300, 20
TERM, KILL = signal.SIGTERM, signal.SIGKILL


@dataclasses.dataclass(frozen=True)
class Ended:
    status: int
    text: str
    seconds: float


def run(*starts: Start) -> list[Ended]:
    """Runs processes that start at once until their ends; seconds are those after a signal that one of them
    sent itself, or after the first of the ends."""
    if len(starts) > 1:
        address = f"127.0.0.1:{free_port()}"
        starts = tuple(
            dataclasses.replace(start, count=len(starts), index=i, address=address)
            for i, start in enumerate(starts)
        )
    running = []
    for start in starts:
        output = Path(f"{start.workdir}.out.{start.index}")
        running.append((forked(begin, start, output), output))
    sent = Path(f"{starts[0].workdir}.sent")
    sent.unlink(missing_ok=True)
    first, ended, deadline = None, {}, time.monotonic() + DEADLINE
    try:
        while len(ended) < len(running):
            assert time.monotonic() < deadline, [str(output) for _, output in running]
            for i, (process, output) in enumerate(running):
                if i not in ended and process.exitcode is not None:
                    first = first or (sent.stat().st_mtime if sent.exists() else time.time())
                    ended[i] = Ended(process.exitcode, output.read_text(), time.time() - first)
            time.sleep(0.05)
    finally:
        for process, _ in running:
            process.kill()
            process.join()
    return [ended[i] for i in range(len(running))]


def outcome(workdir: Path) -> tuple[int, dict[str, np.ndarray], list[dict]]:
    step, state = restore_raw(workdir / "checkpoints")
    lines = [{k: v for k, v in line.items() if "per_second" not in k} for line in read_metrics(workdir)]
    return step, leaves_of(state)[0], lines


def assert_same_outcome(workdir: Path, expected) -> None:
    """State, and every metric of every step once, to rounding in float64."""
    found = outcome(workdir)
    assert found[0] == expected[0] == STEPS
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    assert [line["step"] for line in found[2]] == [line["step"] for line in expected[2]]
    for line, other in zip(found[2], expected[2], strict=True):
        assert line == pytest.approx(other, rel=1e-9)


def read(workdir: Path, *indices: int) -> dict[int, list[float]]:
    """What some processes read for each step, as sums of the pixels of its images."""
    pixels: dict[int, list[float]] = {}
    for index in indices:
        lines = map(json.loads, Path(f"{workdir}.read.{index}").read_text().splitlines())
        for step, values in {line["step"]: line["pixels"] for line in lines}.items():
            pixels.setdefault(step, []).extend(values)
    return {step: values for step, values in pixels.items() if step <= STEPS}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The outcome of one process with one device, and what it read."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    [ended] = run(Start(str(workdir)))
    assert ended.status == 0, ended
    return outcome(workdir), read(workdir, 0)


@pytest.mark.slow
def test_two_processes_stopped_and_killed(tmp_path, alone):
    """SIGTERM to one stops both at one step, also while it compiles the first or the second step there is;
    kill -9 of one ends the other; in the end nothing is lost."""
    workdir = tmp_path / "run"
    here = Start(str(workdir))
    for stop, steps in (({"compiling": 1}, {0}), ({"compiling": 2}, {6}), ({"at": 8}, range(6, 10))):
        for ended in run(here, dataclasses.replace(here, signal=TERM, **stop)):
            assert ended.status == 0 and "started after" not in ended.text, ended
            assert ended.text.splitlines()[-1].endswith("the same command goes on from there"), ended
            assert ended.seconds < STOP_SECONDS, ended
        stopped, _, lines = outcome(workdir)
        assert stopped in steps
        assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, stopped + 1))

    survivor, killed = run(here, dataclasses.replace(here, signal=KILL, at=11))
    assert killed.status == -KILL, killed
    assert survivor.status not in (0, -KILL) and survivor.seconds < STOP_SECONDS, survivor
    told = [line for line in survivor.text.splitlines() if line.startswith("error: ")]
    assert told == [
        "error: process 1 of 2 ended before the run did, so process 0 stops; "
        "started again, all go on from the last checkpoint"
    ], survivor

    for process in (here, dataclasses.replace(here, workdir=str(tmp_path / "uninterrupted"))):
        for ended in run(process, process):
            assert ended.status == 0, ended
    expected, pixels = alone
    assert_same_outcome(workdir, expected)
    # Of as many processes that nothing befell, it is the state bit for bit.
    _, state, lines = outcome(workdir)
    _, same, same_lines = outcome(tmp_path / "uninterrupted")
    assert {name: leaf.tobytes() for name, leaf in state.items()} == {
        name: leaf.tobytes() for name, leaf in same.items()
    }
    assert lines == same_lines
    assert json.loads((workdir / "summary.json").read_text())["step"] == STEPS
    # Either reads its half, and together they read what one reads alone.
    assert {len(values) for values in read(workdir, 1).values()} == {BATCH // 2}
    assert read(workdir, 0, 1) == pixels


@pytest.mark.slow
def test_resumed_on_other_numbers_of_devices(tmp_path, alone):
    """8 -> 4 -> 1 -> 8, in either mode: the same samples in the same order, the same state."""
    workdir = tmp_path / "run"
    eight = Start(str(workdir), devices=8, mode="pmap")
    four = Start(str(workdir), devices=4, fsdp=2)
    for start, at in ((eight, 4), (four, 7), (Start(str(workdir)), 10)):
        [ended] = run(dataclasses.replace(start, signal=TERM, at=at))
        assert ended.status == 0 and "the same command goes on" in ended.text, ended
    [ended] = run(eight)
    assert ended.status == 0, ended
    expected, pixels = alone
    assert_same_outcome(workdir, expected)
    assert read(workdir, 0) == pixels
    assert os.listdir(workdir / "checkpoints")


@pytest.mark.slow
def test_four_processes_then_two_and_a_damaged_checkpoint(tmp_path, alone):
    """pmap over four, stopped by one; fsdp over two, which pass over the same damaged step and go on."""
    workdir = tmp_path / "run"
    four = Start(str(workdir), mode="pmap")
    for ended in run(four, four, dataclasses.replace(four, signal=TERM, at=8), four):
        assert ended.status == 0 and ended.seconds < STOP_SECONDS, ended
    stopped, *_ = outcome(workdir)
    assert 5 < stopped < STEPS
    assert read(workdir, 0, 1, 2, 3).items() >= {i: alone[1][i] for i in range(1, stopped + 1)}.items()
    damage(workdir / "checkpoints" / str(stopped))

    two = Start(str(workdir), fsdp=2)
    for ended in run(two, two):
        assert ended.status == 0, ended
        assert f"step {stopped}" in ended.text, ended
    # By one of the two.
    assert [path.name for path in (workdir / "checkpoints").glob("*.damaged*")] == [f"{stopped}.damaged"]
    assert_same_outcome(workdir, alone[0])


def assert_refused(ended: list[Ended], reason: str) -> None:
    """By all processes, in the same line."""
    for process in ended:
        assert process.status == 2 and process.seconds < STOP_SECONDS, process
        assert "Traceback" not in process.text, process
        [told] = [line for line in process.text.splitlines() if line.startswith("error: ")]
        assert reason in told, process


@pytest.mark.slow
def test_what_the_processes_see_differently_is_refused_in_all_of_them(tmp_path):
    here = Start(str(tmp_path / "run"))
    assert_refused(
        run(here, dataclasses.replace(here, devices=2)), "the processes have [1, 2] devices; each must have"
    )
    assert_refused(
        run(here, dataclasses.replace(here, code="other")),
        "processes 0 and 1 run different things: code is '' and 'other'",
    )
    assert_refused(
        run(here, dataclasses.replace(here, more_images=1)),
        "the number of evaluation images is not the same in all processes: [21, 22]; "
        "does each see the same data?",
    )
    with jax.enable_x64(True):
        own = build(here)
        shapes = jax.eval_shape(own.initial_state)
    for name, make in (("run", np.zeros), ("other", np.ones)):  # At the same step, but not in the same state.
        with (
            Workdir(tmp_path / name) as directory,
            Checkpointer(tmp_path / name / "checkpoints") as checkpointer,
        ):
            directory.claim(own.belongings)
            checkpointer.save(3, jax.tree.map(functools.partial(made_like, make), shapes))
    assert_refused(
        run(here, dataclasses.replace(here, workdir=str(tmp_path / "other"))),
        "the checksum of the checkpoint to go on from is not the same in all processes: ",
    )


@pytest.mark.slow
def test_the_death_of_process_0_ends_the_other(tmp_path):
    """JAX's service dies with it, and makes JAX abort the other, which tells why before that."""
    here = Start(str(tmp_path / "run"))
    killed, survivor = run(dataclasses.replace(here, signal=KILL, at=4), here)
    assert killed.status == -KILL, killed
    assert survivor.status == 1 and survivor.seconds < STOP_SECONDS, survivor
    assert "Traceback" not in survivor.text, survivor
    lines = survivor.text.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], survivor
    assert lines[-1] == (
        "error: process 0 of 2 ended before the run did, so process 1 stops; "
        "started again, all go on from the last checkpoint"
    ), survivor


SAVING = """
import sys, time
from qsdt_jax.processes.joining import joined

address, index = sys.argv[1], int(sys.argv[2])
with joined(address, 2, index, {}, timeout=60) as peers:
    peers.before_leaving = lambda: (time.sleep(2), print("saved"))
    print("ready", flush=True)
    time.sleep(300)
"""


def test_a_save_under_way_is_finished_where_process_0_dies():
    """JAX would abort the other before."""
    address = f"127.0.0.1:{free_port()}"
    killed, survivor = (
        subprocess.Popen(
            [sys.executable, "-c", SAVING, address, str(index)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    )
    assert killed.stdout and survivor.stdout
    assert killed.stdout.readline() == survivor.stdout.readline() == "ready\n"
    killed.kill()
    killed.communicate()
    out, told = survivor.communicate(timeout=DEADLINE)
    assert (survivor.returncode, out) == (1, "saved\n"), told
    assert told.splitlines()[-1].startswith("error: process 0 of 2 ended before the run did"), told


LISTENING = """
import os, pathlib, sys
from qsdt_jax.processes import joining

def listening():
    files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    mine = {os.readlink(file) for file in files if os.path.lexists(file)}
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            _, place, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in mine:
                print(place)

joining._require_equal_shares = listening  # Later JAX opens ports over which devices exchange arrays.
with joining.joined(sys.argv[1], 1, 0, {}, timeout=5):
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables of sockets")
def test_process_0_listens_at_the_address_given_and_nowhere_else():
    port = free_port()
    command = [sys.executable, "-c", LISTENING, f"127.0.0.1:{port}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    [place] = done.stdout.split()
    assert place.endswith(f"0100007F:{port:04X}")


@pytest.mark.slow
def test_a_second_run_in_the_same_workdir_is_refused_in_all_its_processes(tmp_path):
    here = Start(str(tmp_path / "run"))
    with Workdir(here.workdir):
        ended = run(here, here)
        assert_refused(ended, f"workdir {here.workdir} is in use by another run")


def made_like(make: Callable, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    return make(leaf.shape, leaf.dtype)


def damage(step: Path) -> None:
    """Changes one byte of the largest file of a checkpoint."""
    largest = max((file for file in step.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
