"""Compilation of what runs once."""

from collections.abc import Callable
from typing import Any

import jax


def jit_once(function: Callable, **options: Any) -> jax.stages.Wrapped:
    """`jax.jit`, with its `options`, of a function that runs once, as drawing the initial variables does.

    A CPU gets code of no optimisation: it compiles in a third of the time, most of which the random
    generator takes again for each shape of a tensor.
    """
    cheap = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=cheap, **options)
