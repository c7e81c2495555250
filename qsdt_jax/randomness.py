"""Random keys as a function of (seed, purpose, step): none is ever stored."""

import enum

import jax


class Purpose(enum.IntEnum):
    """What a stream of randomness is for; the numbers are part of reproducibility and never change."""

    INIT = 0
    STEP = 1
    MIXING = 3


def key_for(seed: int | jax.Array, purpose: Purpose, step: int | jax.Array = 0) -> jax.Array:
    """The key of one purpose at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), step)
