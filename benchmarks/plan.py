"""What XLA's compiler for a GPU promises of the published sizes, beforehand, for `on_gpu.sh --plan`.

    python -m benchmarks.plan [--target h100] [--sizes S,M,L] [--batch 64] [--dtype bfloat16] --out PLAN.json

Needs `pip install '.[gpu-compile]'` and no GPU; minutes a size. Writes for each "SIZE MODE" the bytes of one
device ("bytes": arguments, temporaries and output; "temporaries"; "peak"), bytes moved, kernels, and the
roofline's bound on images/s.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import jax

from benchmarks.profile import config_of
from qsdt_jax.assemble.build import build_optimizer, build_parallel
from qsdt_jax.assemble.data import build_preprocess
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.cuda_plugin import allow_without_driver
from qsdt_jax.data.classes import numbers
from qsdt_jax.inspect.gpu_compiler import compiled_for, devices_of
from qsdt_jax.inspect.hlo import read_program
from qsdt_jax.inspect.kernels import kernels_of, total_moved
from qsdt_jax.inspect.lowered import as_bytes, lowered_inference, lowered_train_step
from qsdt_jax.inspect.speed import LEARNING_RATE
from qsdt_jax.inspect.targets import TARGETS, Target
from qsdt_jax.train.step import initial_state, train_step


def promises(size: str, target: Target, batch: int, dtype: str) -> dict[str, dict[str, Any]]:
    """Of inference and training of one size."""
    config = config_of(size, 224, batch, dtype)
    config.model.exact_evaluation = False  # As `bench` times the inference.
    parallel, preprocess = build_parallel(config, devices_of(target, 1)), build_preprocess(config)
    task, optimizer = build_task(config, numbers(1000)), build_optimizer(config, lambda step: LEARNING_RATE)
    state = jax.eval_shape(lambda: initial_state(task, optimizer))
    normalization = preprocess.normalization
    data = as_bytes(task.batch_shapes(batch), normalization)
    step = functools.partial(train_step, task=task, optimizer=optimizer, normalization=normalization)
    lowered = {
        "inference": lowered_inference(task, state.variables, data, normalization, parallel),
        "train": lowered_train_step(step, state, data, parallel),
    }
    return {
        f"{size} {mode}": _promised(compiled_for(target, f"{mode} of {size}", program), target, batch)
        for mode, program in lowered.items()
    }


def _promised(compiled: jax.stages.Compiled, target: Target, batch: int) -> dict[str, Any]:
    stats, kernels = compiled.memory_analysis(), kernels_of(read_program(compiled.as_text() or ""))
    made = stats.output_size_in_bytes - stats.alias_size_in_bytes
    seconds = sum(kernel.times * target.seconds(kernel) for kernel in kernels)
    return {
        "bytes": stats.argument_size_in_bytes + stats.temp_size_in_bytes + made,
        "temporaries": stats.temp_size_in_bytes,
        "peak": stats.peak_memory_in_bytes,
        "moved": total_moved(kernels),
        "kernels": sum(kernel.times for kernel in kernels),
        "images_per_second": batch / seconds,
    }


def main() -> None:
    """Compiles and writes, size by size."""
    allow_without_driver()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", default="h100", choices=list(TARGETS))
    parser.add_argument("--sizes", default="S,M,L")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for size in given.sizes.split(","):
        found |= promises(size, TARGETS[given.target], given.batch, given.dtype)
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
