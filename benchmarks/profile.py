"""Where the time of a step goes: a trace of some steps, added up by kernel, kind and layer.

    python -m benchmarks.profile [--setting S-spikes] [--batch 4] [--dtype float32] [--mode train] --out DIR

The setting is of `benchmarks/sizes.py`, or tiny; --side, --batch and --dtype change it.
Writes DIR/profile.json beside the trace itself, for XProf. On CPUs operations of one program run at the same
time on several threads, so their seconds add up to more than a step takes.
"""

import argparse
import collections
import itertools
import json
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks import sizes, tiny
from qsdt_jax.inspect.hlo import read_program
from qsdt_jax.inspect.speed import Bench
from qsdt_jax.inspect.timing import WARM_UP_STEPS

STEPS, TOP = 3, 25
PROGRAMS = {"inference": "inference", "train": "train step"}
# Lines of a GPU's trace that are made from the events of its streams, which are counted.
DERIVED = ("XLA Ops", "XLA Modules", "Steps", "Source code", "Framework Ops")
CONTAINERS = {"while", "call", "conditional"}  # What they run has events of its own.
# What an operation is for, by a part of the name that the traced code has given it; the first that fits.
PURPOSES = (
    ("weight gradients", "weight_gradient"),
    ("input gradients", "input_gradient"),
    ("products", "convolve"),
    ("attention", "count_attention|spike_attention|einsum"),
    ("batch norm, backward", "_normalize_backward"),
    ("batch norm, forward", "_normalize_forward"),
    ("quantised weights", "_lsq"),
    ("neurons", "neuron"),
    ("batch norm, border and statistics", r"/\w*bn\d?/"),
)


def purpose_of(op_name: str) -> str:
    """Of an operation, by its name in the traced code."""
    for purpose, pattern in PURPOSES:
        if re.search(pattern, op_name):
            return purpose
    return "others" if "jvp(" in op_name else "optimiser and others"


def layer_of(op_name: str) -> str:
    """The layer that an operation belongs to, the same name for those of all blocks: "conv_block/conv1"."""
    found = re.search(r"/(downsample|conv_block|block|head)[\d_]*/(.*)/", op_name)
    if found is None:
        return ""
    inside = itertools.takewhile(lambda name: "(" not in name, found[2].split("/"))
    return "/".join([found[1], *(re.sub("^[qkv]_", "qkv_", name) for name in inside if "." not in name)])


def traced_seconds(events: Iterable[tuple[str, float]], operations: dict[str, Any]) -> dict[str, float]:
    """Seconds of each operation of the program that runs by itself, from (operation, nanoseconds)."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for name, nanoseconds in events:
        operation = operations.get(name)
        if operation is not None and operation.opcode not in CONTAINERS:
            seconds[name] += nanoseconds / 1e9
    return dict(seconds)


def events_of(folder: Path) -> Iterator[tuple[str, float]]:
    """(operation, nanoseconds) of all events of a trace that belong to operations.

    On CPUs the event of a matrix product ends when its parts are handed to other threads. When these are done
    there is another one, "end: NAME", which consumes what the first one produces.
    """
    others: list[tuple[str, float]] = []  # Those that produce nothing: no other event ends them.
    begun: dict[int, tuple[str, float, float]] = {}
    ended: dict[int, float] = {}
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                if line.name in DERIVED:
                    continue
                for event in line.events:
                    stats = dict(event.stats)
                    if event.name.startswith("end: "):
                        ended[stats.get("_c")] = event.start_ns
                    elif (operation := stats.get("hlo_op")) is not None:
                        if "_p" in stats:
                            begun[stats["_p"]] = str(operation), event.start_ns, event.duration_ns
                        else:
                            others.append((str(operation), event.duration_ns))
    yield from others
    for key, (operation, start, duration) in begun.items():
        yield operation, max(duration, ended.get(key, start) - start)


def summed(seconds: dict[str, float], operations: dict[str, Any], steps: int) -> dict[str, Any]:
    """Milliseconds a step and shares by purpose, by layer and purpose, and of the longest operations."""
    total = sum(seconds.values())
    names = {name: operations[name].attribute("op_name") for name in seconds}

    def rows(key) -> list[dict[str, Any]]:
        sums: dict[str, float] = collections.defaultdict(float)
        counts: dict[str, int] = collections.Counter()
        for name, value in seconds.items():
            sums[key(name)] += value
            counts[key(name)] += 1
        ordered = sorted(sums.items(), key=lambda item: -item[1])
        return [
            {
                "name": name,
                "operations": counts[name],
                "milliseconds": 1e3 * value / steps,
                "share": value / total,
            }
            for name, value in ordered
        ]

    return {
        "milliseconds": 1e3 * total / steps,
        "purposes": rows(lambda name: purpose_of(names[name])),
        "layers": rows(lambda name: f"{purpose_of(names[name])}: {layer_of(names[name])}")[:TOP],
        "operations": rows(lambda name: f"{name} {operations[name].type[:60]} {names[name][-110:]}")[:TOP],
    }


def main(words: list[str] | None = None) -> None:
    """Traces and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--setting", default="S", choices=[*sizes.SETTINGS, "tiny"])
    parser.add_argument("--side", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--dtype")
    parser.add_argument("--mode", default="train", choices=list(PROGRAMS))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    config = tiny.get_config() if given.setting == "tiny" else sizes.get_config(given.setting)
    side = given.side and (given.side, given.side)
    others = {"data.image_size": side, "batch_size": given.batch, "model.dtype": given.dtype}
    config.update_from_flattened_dict({key: value for key, value in others.items() if value})
    bench = Bench(config, STEPS)
    step, _ = bench.training_step() if given.mode == "train" else bench.inference_step(exact=False)
    for _ in range(WARM_UP_STEPS):
        jax.block_until_ready(step())
    shutil.rmtree(given.out / "plugins", ignore_errors=True)  # Older traces.
    with jax.profiler.trace(str(given.out)):
        start = time.perf_counter()
        for _ in range(STEPS):
            jax.block_until_ready(step())
        wall = 1e3 * (time.perf_counter() - start) / STEPS
    program = read_program(bench.programs[PROGRAMS[given.mode]].as_text() or "")
    operations = {name: op for each in program.computations.values() for name, op in each.items()}
    seconds = traced_seconds(events_of(given.out), operations)
    if not seconds:
        sys.exit(f"error: the trace in {given.out} names no operation of the program")
    result = {"wall_milliseconds": wall, **summed(seconds, operations, STEPS)}
    (given.out / "profile.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{wall:,.1f} ms a step, traced; {result['milliseconds']:,.1f} ms of operations")
    for title in ("purposes", "layers", "operations"):
        print(f"\n{title}")
        for row in result[title]:
            told = f"{row['milliseconds']:>10,.2f} ms {100 * row['share']:>5.1f} % {row['operations']:>5}"
            print(f"{told}  {row['name']}")


if __name__ == "__main__":
    main()
