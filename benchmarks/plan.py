"""What XLA's compiler for a GPU promises of what `on_gpu.sh` measures, beforehand, for its --plan.

    python -m benchmarks.plan [--target h100] [--settings S,M,...] --out PLAN.json

Needs `pip install '.[gpu-compile]'` and no GPU; minutes a setting, of `benchmarks/sizes.py`. Writes for each
"SETTING MODE" the bytes of one device ("bytes": arguments, temporaries and output; "temporaries"; "peak"),
bytes moved, kernels, and the roofline's bound on images/s; or "failed", why that is not compiled.
"""

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.sizes import SETTINGS, get_config
from qsdt_jax.assemble.build import build_optimizer, build_parallel
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.cuda_plugin import allow_without_driver
from qsdt_jax.data.classes import numbers
from qsdt_jax.errors import UserError
from qsdt_jax.inspect.gpu_compiler import compiled_for, devices_of
from qsdt_jax.inspect.hlo import read_program
from qsdt_jax.inspect.kernels import kernels_of, total_moved
from qsdt_jax.inspect.lowered import as_bytes, lowered_inference, lowered_train_step
from qsdt_jax.inspect.report import bound_seconds, memory_parts
from qsdt_jax.inspect.speed import LEARNING_RATE
from qsdt_jax.inspect.targets import TARGETS, Target
from qsdt_jax.progress import tell
from qsdt_jax.train.step import initial_state, train_step


def promises(setting: str, target: Target) -> dict[str, dict[str, Any]]:
    """Of the modes of one setting."""
    config = get_config(setting)
    config.model.exact_evaluation = False  # As `bench` times the inference.
    parallel, preprocess = build_parallel(config, devices_of(target, 1)), build_preprocess(config)
    task, optimizer = build_task(config, numbers(1000)), build_optimizer(config, lambda step: LEARNING_RATE)
    state = jax.eval_shape(lambda: initial_state(task, optimizer))
    normalization = preprocess.normalization
    data = as_bytes(task.batch_shapes(config.batch_size), normalization)
    step = functools.partial(train_step, task=task, optimizer=optimizer, normalization=normalization)
    lowered = {
        "inference": lambda: lowered_inference(task, state.variables, data, normalization, parallel),
        "train": lambda: lowered_train_step(step, state, data, parallel),
    }
    return {
        f"{setting} {mode}": promised(f"{mode} of {setting}", lowered[mode], target, config.batch_size)
        for mode in SETTINGS[setting].modes
    }


def promised(
    name: str, lower: Callable[[], jax.stages.Lowered], target: Target, batch: int
) -> dict[str, Any]:
    """Of one program; "failed" of one that the compiler refuses, as for want of memory: why."""
    try:
        compiled = compiled_for(target, name, lower())
    except UserError as error:
        tell(str(error))
        return {"failed": str(error)}
    stats, kernels = compiled.memory_analysis(), kernels_of(read_program(compiled.as_text() or ""))
    assert stats is not None  # Of a compiler that tells.
    memory = memory_parts(stats)
    return {
        "bytes": sum(memory.values()),
        "temporaries": memory["temporaries"],
        "peak": stats.peak_memory_in_bytes,
        "moved": total_moved(kernels),
        "kernels": sum(kernel.times for kernel in kernels),
        "images_per_second": batch / bound_seconds(kernels, target),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Compiles and writes, setting by setting; a mistake in what is given is one line."""
    allow_without_driver()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", default="h100", choices=list(TARGETS))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(words)
    settings = given.settings.split(",")
    if unknown := [setting for setting in settings if setting not in SETTINGS]:
        parser.error(f"unknown setting {unknown[0]!r}; there are {', '.join(SETTINGS)}")
    try:
        devices_of(TARGETS[given.target], 1)
    except UserError as error:
        parser.error(str(error))
    found: dict[str, Any] = {}
    for setting in settings:
        found |= promises(setting, TARGETS[given.target])
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
