"""The steps of `on_gpu.sh`, and the page about them."""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.steps import Step, run_all

SECONDS = 480.0
SIZES, MODES = ("S", "M", "L"), ("inference", "train")
BATCH = 64
# Where an accelerator's own products and programs are compared with what they have to be.
TESTS = ("tests/layers/test_product.py", "tests/layers/test_attention.py", "tests/layers/test_lowering.py")
MORE_TESTS = (
    "tests/models/test_golden.py::test_evaluation_forward",
    "tests/models/test_golden.py::test_training_forward_and_every_gradient",
    "tests/deploy/test_forms.py::test_an_image_is_classified_alike_alone_and_among_others",
    "tests/deploy/test_forms.py::test_operand_types_of_training_change_no_bit_of_evaluation",
)
# Of a dry run, which says nothing of speed: compilation takes a third of the time.
DRY = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
DEVICE = """
import json, pathlib, subprocess, sys, jax
from qsdt_jax.workdir.provenance import provenance
asked = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit"
smi = ["nvidia-smi", asked, "--format=csv,noheader"]
gpu = jax.default_backend() != "cpu"
found = {
    "backend": jax.default_backend(),
    "devices": [device.device_kind for device in jax.devices()],
    "memory": jax.devices()[0].memory_stats(),
    "nvidia_smi": subprocess.run(smi, capture_output=True, text=True).stdout.strip() if gpu else None,
    "provenance": provenance(),
}
pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
sys.exit(0 if gpu or "--dry-run" in sys.argv else "jax sees no GPU")
"""


def steps_of(folder: Path, *, dry: bool, beside: bool) -> list[Step]:
    """All steps, the most important ones first; `beside`: torch is there to be compared with."""
    python = [sys.executable]
    device = folder / "device.json"
    pytest = [*python, "-m", "pytest", "-n0", "-p", "no:cacheprovider"]
    tests = [TESTS[0], "-k", "naive and pointwise"] if dry else [*TESTS, *MORE_TESTS]
    steps = [
        Step("device", [*python, "-c", DEVICE, str(device), *(["--dry-run"] if dry else [])], 30, device),
        Step("tests", [*pytest, *tests], 120),
    ]
    for size in ("tiny",) if dry else SIZES:
        for mode in MODES:
            name, output = f"bench {size} {mode}", folder / f"bench_{size}_{mode}.json"
            command = [
                *python,
                "-m",
                "launch",
                "bench",
                *_network(size),
                f"--modes={mode}",
                f"--json={output}",
            ]
            limit = {"inference": 60, "train": 120}[mode]
            steps.append(Step(name, command + (["--beside=torch"] if beside else []), limit, output))
        if size in ("tiny", "S"):
            traced, batch = folder / "profile", ["--batch", str(BATCH), "--dtype", "bfloat16"]
            command = [*python, "-m", "benchmarks.profile", "--size", size, "--out", str(traced)]
            command += ["--mode", MODES[-1]]
            steps.append(Step("profile", command + ([] if dry else batch), 60, traced / "profile.json"))
    return steps


def _network(size: str) -> list[str]:
    if size == "tiny":
        return ["--config=benchmarks/tiny.py", "--steps=1"]
    return [f"--size={size}", f"--batch={BATCH}", "--dtype=bfloat16"]


def page(found: Sequence[dict[str, Any]], plan: dict[str, Any] | None) -> str:
    """What was found, for people."""
    by_name = {step["name"]: step for step in found}
    device = by_name.get("device", {}).get("result") or {}
    benches = {
        name.removeprefix("bench "): step["result"][mode]
        for name, step in by_name.items()
        if name.startswith("bench ") and (mode := name.split()[-1]) in (step["result"] or {})
    }
    profile = by_name.get("profile", {}).get("result")
    parts = [
        ["# On a GPU", "", f"{', '.join(device.get('devices', ['no device']))}; {device.get('nvidia_smi')}"],
        _steps_rows(found),
        _speed_rows(benches),
        _memory_rows(benches, plan or {}),
        [] if profile is None else _profile_rows(profile),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _steps_rows(found: Sequence[dict[str, Any]]) -> list[str]:
    rows = ["## Steps", "", "| step | seconds | status | last line |", "|---|---|---|---|"]
    for step in found:
        last = next((line for line in reversed(step["told"]) if line.strip()), "").replace("|", "/")
        rows.append(f"| {step['name']} | {step['seconds']:.0f} | {step['status']} | {last[:120]} |")
    return rows


def _ways(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of `bench --beside`; or of `bench` alone, which has one."""
    return {"qsdt_jax": result} if "images_per_second" in result else result


def _speed_rows(benches: dict[str, Any]) -> list[str]:
    rows = ["## Speed", "", "| network | way | images/s | of the matrix product | takes, ours = 1 | peak |"]
    rows.append("|---|---|---|---|---|---|")
    for name, result in benches.items():
        for way, r in _ways(result).items():
            share = f"{100 * r['share_of_matmul']:.1f} %" if "share_of_matmul" in r else ""
            ratio = r.get("ratio")
            told = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else ""
            peak = _gigabytes(r.get("peak_bytes"))
            rows.append(f"| {name} | {way} | {r['images_per_second']:,.1f} | {share} | {told} | {peak} |")
    return rows


def _memory_rows(benches: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """Of our programs: planned, as compiled here, and at run time."""
    head = "| network | planned memory | compiled here | at run time, at most | planned bound | images/s |"
    rows = ["## The plan and the run", "", head, "|---|---|---|---|---|---|"]
    for name, result in benches.items():
        own, promised = _ways(result)["qsdt_jax"], plan.get(name, {})
        compiled = own.get("memory_bytes")
        bound = promised.get("images_per_second")
        cells = (
            _gigabytes(promised.get("bytes")),
            _gigabytes(sum(compiled.values()) if compiled else None),
            _gigabytes(own.get("peak_bytes")),
            "not planned" if bound is None else f"{bound:,.0f} images/s",
            f"{own['images_per_second']:,.1f}",
        )
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _gigabytes(size: float | None) -> str:
    return "not known" if size is None else f"{size / 1e9:,.3f} GB"


def _profile_rows(profile: dict[str, Any]) -> list[str]:
    rows = ["## Where a step's time goes", "", "| what | operations | ms a step | share |"]
    rows.append("|---|---|---|---|")
    for row in [*profile["purposes"], *profile["operations"][:20]]:
        name = row["name"].replace("|", "/")
        share = f"{100 * row['share']:.1f} %"
        rows.append(f"| `{name}` | {row['operations']} | {row['milliseconds']:.2f} | {share} |")
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Runs all; exit status 1 where a step was not done."""
    parser = argparse.ArgumentParser(prog="benchmarks/on_gpu.sh")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args(words)
    given.folder.mkdir(parents=True, exist_ok=True)
    plan = None if given.plan is None else json.loads(given.plan.read_text())
    env = {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(given.folder / "compiled"),
        **(DRY if given.dry_run else {}),
    }

    def write(found: list[dict[str, Any]]) -> None:
        content = {"dry_run": given.dry_run, "plan": plan, "steps": found}
        (given.folder / "on_gpu.json").write_text(json.dumps(content, indent=2) + "\n")
        (given.folder / "on_gpu.md").write_text(page(found, plan))
        last = found[-1]
        print(f"{last['name']}: {last['status']} in {last['seconds']:.0f} s", flush=True)

    beside = importlib.util.find_spec("torch") is not None
    steps = steps_of(given.folder, dry=given.dry_run, beside=beside)
    found = run_all(steps, SECONDS, given.folder, env, write)
    sys.exit(any(step["status"] != "done" for step in found))


if __name__ == "__main__":
    main()
