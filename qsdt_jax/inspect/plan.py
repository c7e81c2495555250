"""The train step compiled by the CPU's compiler for several devices: an estimate of what it takes and sends.

For where the compiler of GPUs (`gpu_compiler`) is not installed, and for accelerators that it does not know.
"""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax

from qsdt_jax.errors import UserError
from qsdt_jax.inspect.hlo import read_program
from qsdt_jax.inspect.kernels import kernels_of, sent_by_kind
from qsdt_jax.inspect.lowered import lowered_train_step
from qsdt_jax.inspect.report import memory_parts
from qsdt_jax.progress import tell
from qsdt_jax.train.parallel import Parallel

UTILIZATIONS = (0.2, 0.4, 0.6)
ACCELERATOR = "tpu"  # Its products are one operation each, as those of all that have no way of their own.


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
    compiled = lowered_train_step(step, state, batch, parallel, ACCELERATOR).compile()
    tell(f"compiled in {time.monotonic() - start:.0f} s")

    stats, devices = compiled.memory_analysis(), len(parallel.devices)
    if stats is None:
        raise UserError(f"the {jax.default_backend()} backend does not report memory")
    parts = memory_parts(stats)
    needed = sum(parts.values()) / 1e9
    sent = sent_by_kind(kernels_of(read_program(compiled.as_text() or "")))
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
