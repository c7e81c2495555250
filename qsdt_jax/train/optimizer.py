"""Optimisers of the published recipes, composed from optax, for trees and for what `train.flat` makes."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qsdt_jax.errors import UserError
from qsdt_jax.train.flat import axes, norms, paths, per_tensor, scaled

RateRule = tuple[str, float]
"""A regular expression that a whole path such as "seg_head/classifier/kernel" matches, and a factor."""


class FlatTransformation(optax.GradientTransformation):
    """One that takes what `train.flat` makes and gives the same updates of it as of a tree."""


def chained(*transformations: optax.GradientTransformation) -> FlatTransformation:
    """`optax.chain` of transformations that each take what `train.flat` makes."""
    chain = optax.chain(*transformations)
    return FlatTransformation(chain.init, chain.update)


def decay_mask(params: Any) -> Any:
    """True for the tensors that decay: two or more axes (published code of the classifier)."""
    return jax.tree.map(lambda count: count >= 2, axes(params))


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.05,
    clip_norm: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
) -> FlatTransformation:
    """LAMB as timm has it with `trust_clip` (You et al. 2020; published code).

    It differs from `optax.lamb`: gradients are clipped to a global norm first, and the trust ratio
    |w| / |update| applies to decayed tensors only and never exceeds 1.
    """
    return chained(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.masked(scale_by_clipped_trust_ratio(), decay_mask) if weight_decay else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.05,
    clip_norm: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay_vectors: bool = False,
) -> FlatTransformation:
    """AdamW on gradients clipped to a global norm, decaying tensors of two or more axes, or all of them."""
    mask = None if decay_vectors else decay_mask
    return chained(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask),
    )


def scale_by_rate_rules(rules: Sequence[RateRule]) -> optax.GradientTransformation:
    """Multiplies the updates of some tensors, as a learning rate of their own would, decay included.

    Args:
      rules: the first whose pattern matches the path of a tensor counts.

    Returns:
      The last transformation of a chain, whose updates are proportional to the learning rate.

    Raises:
      UserError: when its state is made, a pattern that matches no tensor.
    """

    def init(params: Any) -> optax.EmptyState:
        names = paths(params)
        for pattern, _ in rules:
            if not any(re.fullmatch(pattern, name) for name in names):
                raise UserError(f"the pattern {pattern!r} of a learning-rate rule matches no tensor")
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None):
        del params
        factors = [next((f for p, f in rules if re.fullmatch(p, name)), 1.0) for name in paths(updates)]
        return scaled(updates, per_tensor(updates, factors)), state

    return optax.GradientTransformation(init, update)


def scale_by_clipped_trust_ratio() -> optax.GradientTransformation:
    """Scales each tensor's update by min(|w| / |update|, 1), and by 1 where either norm is 0."""

    def ratio(weight_norm: jax.Array, update_norm: jax.Array) -> jax.Array:
        usable = (weight_norm > 0) & (update_norm > 0)
        return jnp.where(usable, jnp.minimum(weight_norm / jnp.where(usable, update_norm, 1), 1), 1)

    def update(updates, state, params):
        return scaled(updates, jax.tree.map(ratio, norms(params), norms(updates))), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
