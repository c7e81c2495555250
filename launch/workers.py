"""One command in several processes at once, each with an accelerator of its own where there are some."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from qsdt_jax.errors import UserError
from qsdt_jax.processes.preemption import POLL_SECONDS, Preemption
from qsdt_jax.progress import tell

PROGRAM = [sys.executable, "-m", "qsdt_jax.command"]  # It finds `launch` in a checkout and in a wheel.
# Counted in a process of its own: to look at an accelerator is to take hold of it.
COUNT = """
import sys, jax
from qsdt_jax.devices import require_devices
from qsdt_jax.errors import UserError
try:
    require_devices()
except UserError as error:
    sys.exit(str(error))
print(jax.local_device_count() if jax.default_backend() != "cpu" else 0)
"""


def run_together(count: int, arguments: Sequence[str], logs: Path) -> None:
    """Runs `launch ARGUMENTS` in several processes and waits for all of them.

    SIGTERM and SIGINT are passed on; then those who receive them save and leave.

    Args:
      count: of processes. On a CPU they share its cores, of accelerators each sees one.
      arguments: of each.
      logs: folder of their output, worker0.log and so on.

    Raises:
      UserError: there are fewer accelerators, or a process ended with an error.
      Preempted: a signal came.
    """
    accelerators = _accelerators()
    if accelerators and count > accelerators:
        raise UserError(f"--parallel={count}: there are {accelerators} accelerators, one for each process")
    logs.mkdir(parents=True, exist_ok=True)
    files = [logs / f"worker{i}.log" for i in range(count)]
    tell(f"{count} processes; what they say: {', '.join(map(str, files))}")
    with Preemption() as preemption, contextlib.ExitStack() as stack:
        workers = [
            subprocess.Popen(
                [*PROGRAM, *arguments],
                stdout=(log := stack.enter_context(file.open("w"))),
                stderr=log,
                env=os.environ | (_only_accelerator(i) if accelerators else {}),
                start_new_session=True,  # Or Ctrl-C would reach them twice.
            )
            for i, file in enumerate(files)
        ]
        told = False
        while any(worker.poll() is None for worker in workers):
            if preemption.requested and not told:
                told = True
                for worker in workers:
                    worker.send_signal(signal.SIGTERM)
            time.sleep(POLL_SECONDS)
        preemption.check()
    for worker, file in zip(workers, files, strict=True):
        if worker.returncode:
            raise UserError(f"a process ended with status {worker.returncode}; see {file}")


def _accelerators() -> int:
    """Number of accelerators of this machine that JAX sees."""
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["JAX finds no device, and says no reason"])[-1])
    return int(done.stdout)


def _only_accelerator(i: int) -> dict[str, str]:
    """Environment in which JAX sees the accelerator of this number alone."""
    return {
        "JAX_CUDA_VISIBLE_DEVICES": str(i),
        "JAX_ROCM_VISIBLE_DEVICES": str(i),
        "TPU_VISIBLE_DEVICES": str(i),
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
    }
