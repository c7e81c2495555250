"""The steps of `on_gpu.sh`, and the page about them."""

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sizes import SETTINGS
from benchmarks.steps import Step, run_all

SECONDS = 465.0  # Of all steps together; 15 more are for the script itself.
# What each takes where two cores compile. All such steps together do not fit: the last ones are not begun.
LIMITS = {"device": 30, "tests": 150, "inference": 60, "train": 150, "beside": 200, "profile": 90}
COMPARED = "S"
SPARED = "S-spikes"  # Measured in the end, if there is time: with 256 images it says more.
# Where an accelerator's own products and programs are compared with what they have to be.
TESTS = (
    "tests/layers/test_product.py",
    "tests/layers/test_kernels.py",
    "tests/layers/test_attention.py",
    "tests/layers/test_lowering.py",
)
MORE_TESTS = (
    "tests/models/test_golden.py::test_evaluation_forward",
    "tests/models/test_golden.py::test_training_forward_and_every_gradient",
    "tests/deploy/test_forms.py::test_an_image_is_classified_alike_alone_and_among_others",
    "tests/deploy/test_forms.py::test_operand_types_of_training_change_no_bit_of_evaluation",
)
MODES = "train", "inference"  # Of the tiny network, in a dry run.
DRY_TESTS = TESTS[0], "-k", "naive and pointwise"
WORKERS = 4  # Processes for the tests; most of their time is that of compilation.
# Of a dry run, which says nothing of speed: compilation takes a third of the time.
DRY = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def steps_of(folder: Path, *, dry: bool, beside: bool) -> list[Step]:
    """All steps, the most important ones first; `beside`: torch is there to be compared with."""
    device, traced = folder / "device.json", folder / "profile"
    settings = {"tiny": MODES} if dry else {name: setting.modes for name, setting in SETTINGS.items()}
    compared = "tiny" if dry else COMPARED
    # A name and an outcome for each test, so that those before a time-out are known.
    words = ["-n0", *DRY_TESTS] if dry else [f"-n{WORKERS}", "--dist=worksteal", *TESTS, *MORE_TESTS]
    pytest = _module("pytest", "-vv", "-p", "no:cacheprovider", *words)
    words = ["--setting", compared, "--mode", settings[compared][0]]
    profile = _module("benchmarks.profile", *words, "--out", traced)

    def benches(name: str) -> list[Step]:
        return [_bench(folder, name, mode) for mode in settings[name]]

    asked = _module("benchmarks.device", device, *(["--dry-run"] if dry else []))
    steps = [
        Step("device", asked, LIMITS["device"], device),
        Step("tests", pytest, LIMITS["tests"]),
        *(step for name in settings if name != SPARED for step in benches(name)),
        # The quicker one first: torch compiles a training for minutes, and is cut off where time ends.
        *(_bench(folder, compared, mode, beside=True) for mode in reversed(settings[compared]) if beside),
        Step("profile", profile, LIMITS["profile"], traced / "profile.json"),
        *(step for name in settings if name == SPARED for step in benches(name)),
    ]
    # A dry run has no GPU to give back, and its CPU may have other work.
    return [dataclasses.replace(step, limit=10 * step.limit) for step in steps] if dry else steps


def _module(name: str, *words: object) -> list[str]:
    return [sys.executable, "-m", name, *map(str, words)]


def _bench(folder: Path, setting: str, mode: str, *, beside: bool = False) -> Step:
    """One mode, so that its numbers are there whatever happens later."""
    name = f"{setting} {mode}" + (" beside torch" if beside else "")
    output = folder / f"bench_{name.replace(' ', '_')}.json"
    config = ["--config=benchmarks/tiny.py", "--steps=1"]
    if setting != "tiny":
        config = [f"--config=benchmarks/sizes.py:{setting}"]
    words = [*config, f"--modes={mode}", f"--json={output}", *(["--beside=torch"] if beside else [])]
    limit = LIMITS["beside" if beside else mode]
    return Step(f"bench {name}", _module("launch", "bench", *words), limit, output)


def page(found: Sequence[dict[str, Any]], plan: dict[str, Any] | None) -> str:
    """What was found, for people."""
    by_name = {step["name"]: step for step in found}
    device = by_name.get("device", {}).get("result") or {}
    benches = {
        name.removeprefix("bench "): step["result"][mode]
        for name, step in by_name.items()
        if name.startswith("bench ") and (mode := name.split()[2]) in (step["result"] or {})
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
        last = next((line for line in reversed(step["told"]) if line.strip()), "")
        rows.append(f"| {step['name']} | {step['seconds']:.0f} | {step['status']} | {_cell(last)} |")
    return rows


def _ways(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of `bench --beside`; or of `bench` alone, which has one."""
    return {"qsdt_jax": result} if "images_per_second" in result else result


def _speed_rows(benches: dict[str, Any]) -> list[str]:
    rows = ["## Speed", "", "| network | way | images/s | of the matrix product | takes, ours = 1 | peak |"]
    rows.append("|---|---|---|---|---|---|")
    for name, result in benches.items():
        for way, r in _ways(result).items():
            if "failed" in r:
                rows.append(f"| {name} | {way} | not timed: {_cell(r['failed'])} |  |  |  |")
                continue
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
        bound, refused = promised.get("images_per_second"), promised.get("failed")
        cells = (
            _gigabytes(promised.get("bytes")) if refused is None else _cell(refused),
            _gigabytes(sum(compiled.values()) if compiled else None),
            _gigabytes(own.get("peak_bytes")),
            "not planned" if bound is None else f"{bound:,.0f} images/s",
            f"{own['images_per_second']:,.1f}",
        )
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _cell(text: str) -> str:
    """As it may stand in a table."""
    return text.replace("|", "/")[:120]


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


def _replace(file: Path, text: str) -> None:
    """At once, so that whoever ends the script finds what stood there before or what stands there now."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


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
        "JAX_COMPILATION_CACHE_DIR": str(given.folder / "compiled"),
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        **(DRY if given.dry_run else {}),
    }

    def write(found: list[dict[str, Any]]) -> None:
        content = {"dry_run": given.dry_run, "plan": plan, "steps": found}
        _replace(given.folder / "on_gpu.json", json.dumps(content, indent=2) + "\n")
        _replace(given.folder / "on_gpu.md", page(found, plan))
        last = found[-1]
        print(f"{last['name']}: {last['status']} in {last['seconds']:.0f} s", flush=True)

    beside = importlib.util.find_spec("torch") is not None
    steps = steps_of(given.folder, dry=given.dry_run, beside=beside)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("ended")
    )  # As an exception, which ends the step as well.
    found = run_all(steps, SECONDS * (10 if given.dry_run else 1), given.folder, env, write)
    sys.exit(any(step["status"] != "done" for step in found))


if __name__ == "__main__":
    main()
