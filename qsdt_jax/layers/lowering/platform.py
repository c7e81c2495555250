"""Which platform's way a program takes: chosen when it is compiled, so that a program exported from a CPU for
other platforms takes theirs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from jax import lax

Platform = Literal["cpu", "cuda", "rocm", "tpu"]

_played: Platform | None = None


@contextlib.contextmanager
def as_on(platform: Platform) -> Iterator[None]:
    """Inside, a CPU computes in the way of another platform: to test it, or to look at what is compiled.

    The products and their operand types are those of the platform, the instructions are the CPU's.
    """
    global _played
    before = _played
    jax.clear_caches()  # They do not know of the switch.
    _played = platform
    try:
        yield
    finally:
        _played = before
        jax.clear_caches()


def as_on_accelerators() -> contextlib.AbstractContextManager[None]:
    """Inside, a CPU computes as accelerators without a way of their own do: one XLA operation a product."""
    return as_on("tpu")


def by_platform(*operands: Any, default: Callable, **ways: Callable) -> jax.Array:
    """`lax.platform_dependent`, but for `as_on`. `ways` has the functions of platforms by name."""
    if _played is not None:
        ways["cpu"] = ways.get(_played, default)
    return lax.platform_dependent(*operands, default=default, **ways)
