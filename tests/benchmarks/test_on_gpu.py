import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import on_gpu
from benchmarks.on_gpu import MORE_TESTS, SECONDS, TESTS, page, steps_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "on_gpu.sh"


def script(*words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(
        [SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=SECONDS, env=env, cwd="/"
    )


def test_the_chosen_tests_exist():
    for name in (*TESTS, *MORE_TESTS):
        file, _, function = name.partition("::")
        assert f"def {function}" in (ROOT / file).read_text()


def test_sizes_and_modes_are_compared_with_torch_where_it_is(tmp_path):
    for beside in (False, True):
        steps = steps_of(tmp_path, dry=False, beside=beside)
        benches = [step for step in steps if step.name.startswith("bench")]
        assert [step.name for step in benches] == [
            f"bench {s} {m}" for s in "SML" for m in ("inference", "train")
        ]
        assert all(("--beside=torch" in step.command) == beside for step in benches)
        assert all("--dtype=bfloat16" in step.command for step in benches)


RATES = {"images_per_second": 1000.0, "memory_bytes": {"a": 2e9, "b": 1e9}, "peak_bytes": 4e9}
RATIO = {"median": 1.5, "min": 1.2, "max": 1.75}


def step(name: str, result, status: str = "done"):
    return {"name": name, "status": status, "seconds": 2.0, "told": ["first", "a | b", ""], "result": result}


def test_page():
    row = {"name": "a | b", "operations": 3, "milliseconds": 2.5, "share": 0.25}
    eager = {"images_per_second": 500.0, "share_of_matmul": 0.125, "peak_bytes": 5e9, "ratio": RATIO}
    found = [
        step("device", {"devices": ["H100"], "nvidia_smi": "550"}),
        step("bench S train", {"train": {"qsdt_jax": RATES, "eager": eager}}),
        step("bench M train", {"train": RATES}),  # Without torch.
        step("bench L train", None, "timed out"),
        step("profile", {"purposes": [row], "operations": [row]}),
    ]
    text = page(found, {"S train": {"bytes": 3.5e9, "images_per_second": 1200.0}})
    assert "H100; 550" in text
    assert "| bench L train | 2 | timed out | a / b |" in text
    assert "| S train | qsdt_jax | 1,000.0 |  |  | 4.000 GB |" in text
    assert "| S train | eager | 500.0 | 12.5 % | 1.50 (1.20 to 1.75) | 5.000 GB |" in text
    assert "| S train | 3.500 GB | 3.000 GB | 4.000 GB | 1,200 images/s | 1,000.0 |" in text
    assert "| M train | not known | 3.000 GB | 4.000 GB | not planned | 1,000.0 |" in text
    assert "| `a / b` | 3 | 2.50 | 25.0 % |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"\|", line)) for line in rows} == {5, 7}


def test_a_page_of_nothing():
    assert "no device" in page([step("device", None, "failed")], None)


def test_usage():
    told = script()
    assert told.returncode == 2 and told.stderr.startswith("usage: ")


@pytest.mark.slow
def test_dry_run(tmp_path, monkeypatch, capsys):
    """Without the training, which takes most of the time."""
    monkeypatch.setattr(on_gpu, "MODES", ("inference",))
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
    assert content["steps"][1]["told"][-1].startswith("1 passed")
    text = (tmp_path / "on_gpu.md").read_text()
    assert "| tiny inference |" in text and "| `products` |" in text
