import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import on_gpu, plan
from benchmarks.on_gpu import MORE_TESTS, SECONDS, TESTS, page, steps_of
from benchmarks.steps import Step
from launch.flags import GIVEN_CONFIG
from qsdt_jax.assemble.build import fit_step

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "on_gpu.sh"


def script(*words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(
        [SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=SECONDS, env=env, cwd="/"
    )


def test_the_chosen_tests_exist():
    """Of each file and function pytest collects at least one."""
    chosen = [*TESTS, *MORE_TESTS]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n0",
        "-p",
        "no:cacheprovider",
        "--collect-only",
        *chosen,
    ]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}  # What a user adds changes what is told.
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert told.returncode == 0, told.stdout[-1000:]
    collected = [line.partition("[")[0] for line in told.stdout.splitlines()]
    for name in chosen:
        assert any(line == name or line.startswith(f"{name}::") for line in collected), name


def benches(tmp_path, beside):
    return [step for step in steps_of(tmp_path, dry=False, beside=beside) if step.name.startswith("bench")]


def test_what_says_most_comes_first(tmp_path):
    """And those beside torch are there where it is."""
    before = ["S-spikes-256 train", *(f"{s} {m}" for s in "SML" for m in ("train", "inference"))]
    others = ["S inference beside torch", "S train beside torch"]
    for beside, compared in ((False, []), (True, others)):
        steps = steps_of(tmp_path, dry=False, beside=beside)
        named = [step.name.removeprefix("bench ") for step in steps]
        assert named == ["device", "tests", *before, *compared, "profile", "S-spikes train"]
        found = [step for step in steps if "--beside=torch" in step.command]
        assert [step.name.removeprefix("bench ") for step in found] == compared
        written = [step.output for step in steps if step.output is not None]
        assert len(set(written)) == len(written)


def test_a_step_that_takes_its_limit_leaves_time_for_several(tmp_path):
    assert max(step.limit for step in steps_of(tmp_path, dry=False, beside=True)) <= SECONDS / 2


def test_what_is_planned_is_what_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = {}
    for step in benches(tmp_path, True):
        [config] = [word.removeprefix("--config=") for word in step.command if word.startswith("--config=")]
        settings[step.name.split()[1]] = GIVEN_CONFIG.load(config)
        assert not [
            word for word in step.command if word.startswith(("--config.", "--size", "--batch", "--dtype"))
        ]
    assert list(settings) == list(plan.SETTINGS)
    for name, config in settings.items():
        assert fit_step(config) == [] and config == plan.get_config(name)
    assert settings["S-spikes-256"].batch_size == 256 and settings["S-spikes-256"].model.remat == "spikes"


def test_torch_can_follow_what_runs():
    pytest.importorskip("torch", reason="pip install -r benchmarks/torch_twin/requirements.txt")
    from benchmarks.beside_torch import simplified

    assert [simplified(plan.get_config(name)) for name in plan.SETTINGS] == [[]] * len(plan.SETTINGS)


RATES = {"images_per_second": 1000.0, "memory_bytes": {"a": 2e9, "b": 1e9}, "peak_bytes": 4e9}
RATIO = {"median": 1.5, "min": 1.2, "max": 1.75}


def step(name: str, result, status: str = "done"):
    return {"name": name, "status": status, "seconds": 2.0, "told": ["first", "a | b", ""], "result": result}


def test_page():
    row = {"name": "a | b", "operations": 3, "milliseconds": 2.5, "share": 0.25}
    lacking = {"failed": "out of | memory"}
    eager = {"images_per_second": 500.0, "share_of_matmul": 0.125, "peak_bytes": 5e9, "ratio": RATIO}
    found = [
        step("device", {"devices": ["H100"], "nvidia_smi": "550"}),
        step("bench S train", {"train": RATES}),
        step("bench S train beside torch", {"train": {"qsdt_jax": RATES, "eager": eager, "other": lacking}}),
        step("bench M train", {"train": RATES}),
        step("bench L train", None, "timed out"),
        step("profile", {"purposes": [row], "operations": [row]}),
    ]
    planned = {"bytes": 3.5e9, "images_per_second": 1200.0}
    text = page(found, {"S train": planned, "M train": {"failed": "out of | memory"}})
    assert "H100; 550" in text
    assert "| bench L train | 2 | timed out | a / b |" in text
    assert "| S train | qsdt_jax | 1,000.0 |  |  | 4.000 GB |" in text
    assert "| S train beside torch | eager | 500.0 | 12.5 % | 1.50 (1.20 to 1.75) | 5.000 GB |" in text
    assert "| S train | 3.500 GB | 3.000 GB | 4.000 GB | 1,200 images/s | 1,000.0 |" in text
    assert "| S train beside torch | other | not timed: out of / memory |  |  |  |" in text
    assert "| S train beside torch | not known | 3.000 GB | 4.000 GB | not planned | 1,000.0 |" in text
    assert "| M train | out of / memory | 3.000 GB | 4.000 GB | not planned | 1,000.0 |" in text
    assert "| `a / b` | 3 | 2.50 | 25.0 % |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"\|", line)) for line in rows} == {5, 7}


def test_a_page_of_nothing():
    assert "no device" in page([step("device", None, "failed")], None)


def test_usage():
    told = script()
    assert told.returncode == 2 and told.stderr.startswith("usage: ")


def test_what_is_known_is_there_when_the_script_is_ended(tmp_path, monkeypatch):
    """And its step ends with it."""
    text = "import os, signal, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); "
    text += "os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    ending = [sys.executable, "-c", text, str(tmp_path / "process")]
    monkeypatch.setattr(on_gpu, "steps_of", lambda *_, **__: [Step("a", ["true"], 9), Step("b", ending, 9)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="ended"):
            on_gpu.main([str(tmp_path)])
    finally:
        signal.signal(signal.SIGTERM, before)
    [step] = json.loads((tmp_path / "on_gpu.json").read_text())["steps"]
    assert (step["name"], step["status"]) == ("a", "done")
    assert "| a | 0 | done |" in (tmp_path / "on_gpu.md").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "process").read_text()), 0)


@pytest.mark.slow
def test_dry_run(tmp_path, monkeypatch, capsys):
    """Without the training, which takes most of the time."""
    monkeypatch.setattr(on_gpu, "MODES", ("inference",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # No torch.
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as left:
        on_gpu.main([str(tmp_path), "--dry-run"])
    content = json.loads((tmp_path / "on_gpu.json").read_text())
    assert [(s["name"], s["status"]) for s in content["steps"]] == [
        ("device", "done"),
        ("tests", "done"),
        ("bench tiny inference", "done"),
        ("profile", "done"),
    ], capsys.readouterr().out
    assert not left.value.code
    told = content["steps"][1]["told"]
    assert any("pointwise" in line and line.endswith("PASSED [100%]") for line in told)
    assert " 1 passed" in told[-1]
    text = (tmp_path / "on_gpu.md").read_text()
    assert "| tiny inference |" in text and "| `products` |" in text
