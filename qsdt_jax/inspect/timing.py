"""What a step takes, and a large matrix product to compare with."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

REPEATS = 5  # Groups that the timed steps are cut into; the device runs ahead within a group.
WARM_UP_STEPS = 2


def seconds_per_step(step: Callable[[], Any], steps: int) -> list[float]:
    """Seconds per step of each group of steps, after a warm-up."""
    for _ in range(WARM_UP_STEPS):
        jax.block_until_ready(step())
    seconds = []
    for group in np.array_split(np.arange(steps), min(REPEATS, steps)):
        start, last = time.perf_counter(), None
        for _ in group:
            last = step()
        jax.block_until_ready(last)
        seconds.append((time.perf_counter() - start) / len(group))
    return seconds


def large_product(dtype: DTypeLike) -> tuple[Callable[[], jax.Array], int]:
    """A matrix product that shows what the device can give, and its floating-point operations."""
    size = 2048 if jax.default_backend() == "cpu" else 8192  # Milliseconds, so that calls do not count.
    a = jnp.ones((size, size), dtype)
    return functools.partial(jax.jit(jnp.matmul), a, a), 2 * size**3


def matmul_rate(dtype: DTypeLike) -> float:
    """GFLOP/s of a large matrix product."""
    step, flops = large_product(dtype)
    return flops / min(seconds_per_step(step, REPEATS)) / 1e9
