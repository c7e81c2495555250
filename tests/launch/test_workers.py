"""Several processes at one study, in real processes: locks, order, death and signals."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.workers import run_together
from qsdt_jax.errors import UserError
from tests.launch.test_ablate import HEADER, ROWS

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "tests.launch.studying", "ablate"]
RUNS = {f"{row}/seed{seed}" for row in ("twin", "float_kd", "binary") for seed in (0, 1)}
TIMEOUT = 120.0  # A machine may be busy.


@pytest.fixture
def study(tmp_path) -> list[str]:
    (tmp_path / "study.py").write_text(HEADER + ROWS)
    return [f"--config={tmp_path / 'study.py'}", f"--workdir={tmp_path / 'work'}"]


@pytest.fixture
def start():
    """Starts a process of the study; none outlives the test."""
    started = []

    def begin(arguments: list[str], seconds: float) -> subprocess.Popen:
        environment = {**os.environ, "SECONDS": str(seconds), "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen([*PROGRAM, *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def begun(workdir: Path) -> dict[str, list[int]]:
    """The processes that began each run."""
    files = workdir.glob("runs/*/*/begun_by")
    return {f"{f.parts[-3]}/{f.parts[-2]}": list(map(int, f.read_text().split())) for f in files}


def wait_until(condition) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_left_to_it_until_it_dies(study, start, tmp_path):
    work = tmp_path / "work"
    slow = start(study, seconds=1000)
    wait_until(lambda: begun(work) == {"twin/seed0": [slow.pid]})
    fast = start(study, seconds=0)
    # All but the run of the other process, and the one that has it as its teacher.
    free = RUNS - {"twin/seed0", "float_kd/seed0"}
    wait_until(lambda: sum(begun(work).get(run) == [fast.pid] for run in free) == 4)
    time.sleep(0.5)
    assert fast.poll() is None and set(begun(work)) == RUNS - {"float_kd/seed0"}
    slow.kill()
    assert fast.wait(TIMEOUT) == 0
    assert begun(work) == {run: [fast.pid] for run in RUNS} | {"twin/seed0": [slow.pid, fast.pid]}
    with (work / "results.csv").open() as stream:
        assert [line["top1"] for line in csv.DictReader(stream)] == ["50.0"] * 6


@pytest.mark.slow
def test_workers_share_the_runs_and_stop_with_the_process_that_started_them(study, start, tmp_path):
    work = tmp_path / "work"
    parent = start([*study, "--parallel=2"], seconds=1000)
    wait_until(lambda: set(begun(work)) == {"twin/seed0", "twin/seed1"})
    workers = {pid for pids in begun(work).values() for pid in pids}
    assert len(workers) == 2 and parent.pid not in workers
    parent.send_signal(signal.SIGTERM)
    _, err = parent.communicate(timeout=TIMEOUT)
    assert parent.returncode == 0 and b"SIGTERM" in err, err
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_that_fails_is_named_with_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setattr("launch.workers._accelerators", lambda: 0)
    with pytest.raises(UserError, match=r"a process ended with status 2; see .*worker0\.log"):
        run_together(2, ["ablatte"], tmp_path)
    assert "unknown verb 'ablatte'" in (tmp_path / "worker1.log").read_text()


def test_each_process_has_an_accelerator(tmp_path, monkeypatch):
    monkeypatch.setattr("launch.workers._accelerators", lambda: 2)
    with pytest.raises(UserError, match="--parallel=3: there are 2 accelerators, one for each process"):
        run_together(3, [], tmp_path)
    seen = "import os, pathlib, sys; print(os.environ['JAX_CUDA_VISIBLE_DEVICES'], sys.argv[1:])"
    monkeypatch.setattr("launch.workers.PROGRAM", [sys.executable, "-c", seen])
    run_together(2, ["--only=a"], tmp_path)
    assert [(tmp_path / f"worker{i}.log").read_text() for i in (0, 1)] == [
        "0 ['--only=a']\n",
        "1 ['--only=a']\n",
    ]
