"""The programs of a run, lowered for devices that need not be there: arrays are shapes."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qsdt_jax.data.images import Normalization
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.tasks.task import Task, Variables
from qsdt_jax.train.parallel import Parallel

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def lowered_train_step(
    step: functools.partial, state: Any, batch: Shapes, parallel: Parallel, platform: str | None = None
) -> jax.stages.Lowered:
    """`train_step` over the devices.

    Args:
      step: has its arguments but state, batch, `shards` and `flat`.
      state, batch: shapes.
      parallel: the devices.
      platform: whose operations it takes, "cuda" or "tpu"; that of the devices unless given.
    """
    state = parallel.state_like(state)
    # Task and seed are in it already.
    step = functools.partial(step, shards=parallel.shards_in_step, flat=parallel.flat_in_step)
    spread = parallel.train_step(lambda state, batch, task, seed: step(state, batch), state)
    arguments = state, parallel.batch_like(batch), None, None
    if platform is None:
        return spread.lower(*arguments)
    # Inside of another jit, since that of pmap lowers for its devices alone.
    traced = jax.jit(spread, donate_argnums=0).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,))


def lowered_inference(
    task: Task, variables: Variables, batch: Shapes, normalization: Normalization | None, parallel: Parallel
) -> jax.stages.Lowered:
    """What a network gives for a batch; each device has its rows of it, and all variables."""
    parallel = dataclasses.replace(parallel, mode="jit")

    def infer(variables: Variables, batch: Mapping[str, jax.Array]) -> Any:
        return task.outputs(variables, to_inputs(batch, normalization))

    return jax.jit(infer).lower(parallel.state_like(variables), parallel.batch_like(batch))


def as_bytes(batch: Shapes, normalization: Normalization | None) -> Shapes:
    """A batch as it comes to the device: images that are normalised there are bytes."""
    if normalization is None:
        return batch
    return {**batch, "image": jax.ShapeDtypeStruct(batch["image"].shape, jnp.uint8)}
