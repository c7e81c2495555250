"""A signal in the middle of a compilation."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest

from qsdt_jax.processes.preemption import Preempted, Preemption


def interrupted_while_traced(x):
    """As a library that catches whatever comes while it looks something up, and goes on without it."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        size = 3
    except Exception:
        size = None
    return x + jnp.zeros(size)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "function", [interrupted_while_traced, lambda x: os.kill(os.getpid(), signal.SIGINT)]
)
def test_whatever_a_signal_makes_of_a_trace_is_the_signal(function):
    with Preemption() as preemption, pytest.raises(Preempted, match="SIGINT: stopped; the same command"):
        preemption.compile(jax.jit(function), jnp.ones(3))


def test_an_error_of_a_trace_without_a_signal_is_its_own():
    with Preemption() as preemption, pytest.raises(TypeError, match="Shapes must be"):
        preemption.compile(jax.jit(lambda x: x + jnp.zeros(None)), jnp.ones(3))  # pyright: ignore
