"""XLA's compiler for GPUs, on machines with GPUs and without: programs are compiled for a description."""

import contextlib
import importlib.util
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from qsdt_jax.cuda_plugin import allow_without_driver
from qsdt_jax.errors import UserError
from qsdt_jax.inspect.targets import Target
from qsdt_jax.progress import tell

PLUGINS = "jax_cuda13_plugin", "jax_cuda12_plugin"
INSTALL = "pip install '.[gpu-compile]'"
STILL_SECONDS = 30  # Between lines that say that it still compiles.


def compiler_is_installed() -> bool:
    """Whether JAX's plug-in for NVIDIA GPUs, which brings the compiler, is there."""
    return any(importlib.util.find_spec(plugin) for plugin in PLUGINS)


def devices_of(target: Target, count: int) -> tuple[Any, ...]:
    """GPUs of one host to compile for. From now on this process computes on CPUs, and leaves a GPU alone.

    Raises:
      UserError: the compiler is not installed, or JAX could not load it.
    """
    if not compiler_is_installed():
        raise UserError(f"XLA's compiler for GPUs is not installed here; 1 GB: {INSTALL}")
    allow_without_driver()
    jax.config.update("jax_platforms", "cpu")
    try:
        description, topology = target.description, f"1x1x{count}"
        return tuple(
            topologies.get_topology_desc(
                target.title, "cuda", target_config=description, topology=topology
            ).devices
        )
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(f"XLA's compiler for GPUs cannot be used here ({_first_line(error)})") from None


def compiled_for(target: Target, name: str, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles, and tells of it meanwhile.

    Raises:
      UserError: the compiler fails.
    """
    with _telling(f"compiling the {name} for {target.title}"):
        try:
            return lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            told = _first_line(error)
    raise UserError(f"XLA's compiler fails on the {name} for {target.title}: {told}")


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Says what is done, every while that it still is, and how long it took."""
    tell(f"{what} ...")
    start, done = time.monotonic(), threading.Event()

    def still() -> None:
        while not done.wait(STILL_SECONDS):
            tell(f"{what}: {time.monotonic() - start:.0f} s")

    thread = threading.Thread(target=still, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    tell(f"{what}: done in {time.monotonic() - start:.0f} s")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
