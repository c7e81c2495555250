"""The train state: all that a training run carries from step to step."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from qsdt_jax.tasks.task import Variables


class TrainState(struct.PyTreeNode):
    """Everything that a resumed run needs besides its configuration.

    No random key and no data position is stored: both are functions of (seed, step).

    Attributes:
      step: () int32, number of finished updates.
      variables: "params" and "batch_stats" of the model.
      opt_state: state of the optimiser.
      ema: exponential moving average of `variables`, or None.
    """

    step: jax.Array
    variables: Variables
    opt_state: optax.OptState
    ema: Variables | None

    def starting_with(self, variables: Variables) -> "TrainState":
        """This state, of before the first step, with other variables."""
        ema = None if self.ema is None else jax.tree.map(jnp.copy, variables)
        return self.replace(variables=variables, ema=ema)


def create_state(variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step; the moving average starts at the real initial values."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=optimizer.init(variables["params"]),
        # A copy: donated buffers must not be shared.
        ema=jax.tree.map(jnp.copy, variables) if ema else None,
    )


def parameter_count(variables: Variables) -> int:
    """Number of trainable values, step sizes and layer scales included."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
