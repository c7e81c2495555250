"""The state before the first step, one training step and one evaluation step, as pure functions."""

import jax
import jax.numpy as jnp
import optax

from qsdt_jax.data.images import Normalization
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.devices import mean_over_devices
from qsdt_jax.evaluate.split import MASK, Scored, over_devices
from qsdt_jax.randomness import Purpose, key_for
from qsdt_jax.tasks.task import Batch, Task, Variables
from qsdt_jax.train.flat import flatten_parts, unflatten
from qsdt_jax.train.optimizer import FlatTransformation
from qsdt_jax.train.state import TrainState, create_state


def initial_state(
    task: Task, optimizer: optax.GradientTransformation, *, seed: int | jax.Array = 0, ema: bool = False
) -> TrainState:
    """The state before the first step, a pure function of the seed; arguments as for `train_step`."""
    # Flax leaves out a collection in which there is nothing, as of a network without batch norm.
    variables = {"batch_stats": {}, **task.init(key_for(seed, Purpose.INIT))}
    return create_state(variables, optimizer, ema=ema)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    task: Task,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array = 0,
    accumulate: int = 1,
    shards: int = 1,
    ema_decay: float = 0.0,
    normalization: Normalization | None = None,
    flat: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update.

    Args:
      state: before the step.
      batch: arrays of B leading rows, which become inputs here, see `data.inputs`.
      task: gives the loss.
      optimizer: applied to the mean gradient.
      seed: of the run; the step's randomness follows from it and `state.step`.
      accumulate: micro-batches that B is cut into; each is a batch-norm group of its own, and the result is
        that of the whole batch with such groups.
      shards: parts that lie one after the other in the batch and hold their share of each micro-batch, as
        `Parallel.rows` arranges them.
      ema_decay: of the moving average, where the state has one.
      normalization: of images in bytes.
      flat: of optimisers that take it (`train.optimizer.FlatTransformation`), what has a value for each
        parameter is a few arrays until the state after the step, see `train.flat`. No tensor of the state may
        be cut over devices then.

    Returns:
      The state after the step, and metrics of the step: "loss", those of the task and "grad_norm", the global
      norm before clipping.
    """
    key = key_for(seed, Purpose.STEP, state.step)
    flat = flat and isinstance(optimizer, FlatTransformation)
    if accumulate == 1:
        result = _gradients(task, state.variables, batch, key, state.step, normalization, flat)
    else:
        micro = _micro_batches(batch, accumulate, shards)
        result = _accumulated(task, state.variables, micro, key, state.step, normalization, flat)
    grads, batch_stats, metrics = mean_over_devices(result)

    params, opt_state, ema = state.variables["params"], state.opt_state, state.ema
    if flat:
        kept = params, opt_state, ema
        # Else XLA may join the tensors of the state before the forward pass, and keep that in memory.
        kept, grads = jax.lax.optimization_barrier((kept, grads))
        params, opt_state, ema = flatten_parts(kept, like=params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
    if ema is not None:
        ema = jax.tree.map(lambda e, v: ema_decay * e + (1 - ema_decay) * v, ema, variables)
    new_state = TrainState(step=state.step + 1, variables=variables, opt_state=opt_state, ema=ema)
    return unflatten(new_state), {**metrics, "grad_norm": optax.tree.norm(grads)}


def _gradients(
    task: Task,
    variables: Variables,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    normalization: Normalization | None,
    flat: bool,
):
    """Gradients and statistics, in a few arrays where `flat`, and metrics."""
    inputs = to_inputs(batch, normalization)

    def loss(params):
        return task.loss({**variables, "params": params}, inputs, key, step)

    (value, (batch_stats, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    if flat:
        grads, batch_stats = flatten_parts((grads, batch_stats), like=variables["params"])
    return grads, batch_stats, {"loss": value, **metrics}


def _micro_batches(batch: Batch, parts: int, shards: int) -> Batch:
    """(B, ...) -> (parts, B / parts, ...); no row leaves its shard."""

    def cut(x):
        return x.reshape(shards, parts, -1, *x.shape[1:]).swapaxes(0, 1).reshape(parts, -1, *x.shape[1:])

    return jax.tree.map(cut, batch)


def _accumulated(
    task: Task,
    variables: Variables,
    micro: Batch,
    key: jax.Array,
    step: jax.Array,
    normalization: Normalization | None,
    flat: bool,
):
    """Mean over micro-batches (parts, rows, ...), one after the other in the memory of one."""
    parts = jax.tree.leaves(micro)[0].shape[0]

    def add(total, part):
        rows, i = part
        key_of_part = jax.random.fold_in(key, i)
        *result, metrics = _gradients(task, variables, rows, key_of_part, step, normalization, flat)
        return jax.tree.map(lambda t, r: t + r / parts, total, result), metrics

    # Written out and not asked of `_gradients`, whose tracing takes seconds.
    total = [variables["params"], variables["batch_stats"]]
    if flat:
        total = flatten_parts(total, like=variables["params"])
    zeros = jax.tree.map(jnp.zeros_like, total)
    (grads, batch_stats), metrics = jax.lax.scan(add, zeros, (micro, jnp.arange(parts)))
    return grads, batch_stats, jax.tree.map(lambda values: jnp.mean(values, 0), metrics)


def evaluation_step(
    variables: Variables, batch: Batch, task: Task, normalization: Normalization | None = None
) -> Scored:
    """What one evaluation batch adds to the score of its split; arguments as for `train_step`."""
    inputs = to_inputs(batch, normalization)
    return over_devices(task.score(task.outputs(variables, inputs), inputs), inputs[MASK])
