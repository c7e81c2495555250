"""The functions that a run compiles, each kept until another one is asked for.

Task and seed are their arguments, so runs in one process that differ in nothing but seed, data or teacher
compile once.
"""

import functools
from typing import Any

import optax

from qsdt_jax.data.images import Normalization
from qsdt_jax.train.step import evaluation_step, initial_state, train_step


@functools.lru_cache(maxsize=1)
def initial_function(optimizer: optax.GradientTransformation, ema: bool):
    """(task, seed) -> the state before the first step."""
    return lambda task, seed: initial_state(task, optimizer, seed=seed, ema=ema)


@functools.lru_cache(maxsize=1)
def step_function(**options: Any):
    """(state, batch, task, seed) -> (state, metrics), of the other arguments of `train_step`."""

    def step(state, batch, task, seed):
        return train_step(state, batch, task=task, seed=seed, **options)

    return step


@functools.lru_cache(maxsize=1)
def evaluation_function(normalization: Normalization | None):
    """(variables, batch, task) -> what the batch adds to the score."""
    return functools.partial(evaluation_step, normalization=normalization)
