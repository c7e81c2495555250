"""The train step compiled ahead of time for devices that need not be there: what it takes and moves."""

import functools
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from qsdt_jax.errors import UserError
from qsdt_jax.layers.lowering import as_on_accelerators
from qsdt_jax.progress import tell
from qsdt_jax.train.parallel import Parallel

UTILIZATIONS = (0.2, 0.4, 0.6)
COLLECTIVE = re.compile(
    r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.-]+)")
TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
ARRAY = re.compile(r"([a-z]+)(\d+)\[([\d,]*)\]")


def force_devices(count: int) -> None:
    """Makes this process see that many devices, of a CPU.

    Raises:
      UserError: it has used its devices already, and they are others.
    """
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.device_count() != count:
            raise UserError(
                f"expected {count} devices; this process has {jax.device_count()} already"
            ) from None


def on_devices(
    step: functools.partial,
    state: Any,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    parallel: Parallel,
    flops_per_image: int,
    *,
    memory_gb: float,
    peak_tflops: float,
) -> list[tuple[str, str]]:
    """Rows (what, value) about one step.

    Args:
      step: the train step, without its `shards`.
      state, batch: shapes.
      parallel: the devices.
      flops_per_image: of forward and backward pass.
      memory_gb, peak_tflops: of one device, to compare with.
    """
    tell(f"compiling for {len(parallel.devices)} devices ...")
    start = time.monotonic()
    images = next(iter(batch.values())).shape[0]
    state, batch = parallel.state_like(state), parallel.batch_like(batch)
    step = functools.partial(step, shards=parallel.shards_in_step)  # Task and seed are in it already.
    spread = parallel.train_step(lambda state, batch, task, seed: step(state, batch), state)
    with as_on_accelerators():
        compiled = spread.lower(state, batch, None, None).compile()
    tell(f"compiled in {time.monotonic() - start:.0f} s")

    stats, devices = compiled.memory_analysis(), len(parallel.devices)
    if stats is None:
        raise UserError(f"the {jax.default_backend()} backend does not report memory")
    made = stats.output_size_in_bytes - stats.alias_size_in_bytes
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "output": made,
    }
    needed = sum(parts.values()) / 1e9
    sent = collective_bytes(compiled.as_text() or "")
    rates = [
        f"{100 * u:.0f} %: {u * peak_tflops * 1e12 * devices / flops_per_image:,.0f}" for u in UTILIZATIONS
    ]
    fits = (
        f"fits into {memory_gb:g} GB"
        if needed <= memory_gb
        else f"DOES NOT FIT into {memory_gb:g} GB; more devices, a smaller batch or a larger accumulate help"
    )
    return [
        ("memory per device", f"{needed:,.2f} GB, {fits}"),
        ("", ", ".join(f"{size / 1e9:,.3f} GB {name}" for name, size in parts.items())),
        (
            "FLOPs per step",
            f"{flops_per_image * images / 1e12:,.3f} T, {1 / devices:.3g} of it on each device",
        ),
        (
            "sent per step",
            ", ".join(f"{size / 1e6:,.2f} MB {kind}" for kind, size in sent.items()) or "nothing",
        ),
        ("images/s", f"{'; '.join(rates)} at that share of {peak_tflops:g} TFLOP/s per device"),
        (
            "",
            "compiled with the XLA of this CPU and an accelerator's convolutions: another compiler may plan",
        ),
        ("", "its temporaries otherwise"),
    ]


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes of the results of each kind of communication in one run of a compiled program, on one device.

    Args:
      program: HLO as text. A loop whose number of rounds the compiler does not know counts once.
    """
    lines: dict[str, list[str]] = {}
    name = entry = ""
    for line in program.splitlines():
        if match := COMPUTATION.match(line):
            name = match[2]
            entry = name if match[1] else entry
        lines.setdefault(name, []).append(line)

    def total(computation: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for line in lines.get(computation, ()):
            if match := COLLECTIVE.search(line):
                found[match[2]] = found.get(match[2], 0) + sum(map(_array_bytes, ARRAY.findall(match[1])))
                continue
            trips = TRIPS.search(line)
            for called in CALLED.findall(line):
                for kind, size in total(called).items():
                    found[kind] = found.get(kind, 0) + size * (int(trips[1]) if trips else 1)
        return found

    return total(entry)


def _array_bytes(array: tuple[str, str, str]) -> int:
    _, bits, shape = array
    return math.prod(map(int, filter(None, shape.split(",")))) * int(bits) // 8
