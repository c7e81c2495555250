"""Programs of other platforms on this machine: their products and operand types, in a CPU's instructions."""

from collections.abc import Callable
from typing import Any

import jax


def lowered_for(
    platform: str, function: Callable, compiler_options: dict[str, Any] | None = None
) -> Callable:
    """`function` of arrays, jitted as for "cpu", "cuda", "rocm" or "tpu"; where there is a GPU, as for it."""
    jitted = jax.jit(function)

    def run(*arguments: Any) -> Any:
        platforms = (platform,) if jax.default_backend() == "cpu" else None
        lowered = jitted.trace(*arguments).lower(lowering_platforms=platforms)
        return lowered.compile(compiler_options)(*arguments)

    return run
