"""Optimisers of the published recipes, composed from optax."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qsdt_jax.errors import UserError

RateRule = tuple[str, float]
"""A regular expression that a whole path such as "seg_head/classifier/kernel" matches, and a factor."""


def decay_mask(params: Any) -> Any:
    """True for the tensors that decay: two or more axes (published code of the classifier)."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.05,
    clip_norm: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
) -> optax.GradientTransformation:
    """LAMB as timm has it with `trust_clip` (You et al. 2020; published code).

    It differs from `optax.lamb`: gradients are clipped to a global norm first, and the trust ratio
    |w| / |update| applies to decayed tensors only and never exceeds 1.
    """
    return optax.chain(
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
) -> optax.GradientTransformation:
    """AdamW on gradients clipped to a global norm, decaying tensors of two or more axes, or all of them."""
    mask = None if decay_vectors else decay_mask
    return optax.chain(
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

    def paths(tree: Any) -> list[str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]

    def init(params: Any) -> optax.EmptyState:
        names = paths(params)
        for pattern, _ in rules:
            if not any(re.fullmatch(pattern, name) for name in names):
                raise UserError(f"the pattern {pattern!r} of a learning-rate rule matches no tensor")
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None):
        del params
        factors = [next((f for p, f in rules if re.fullmatch(p, name)), 1.0) for name in paths(updates)]
        leaves, structure = jax.tree.flatten(updates)
        scaled = [leaf * factor for leaf, factor in zip(leaves, factors, strict=True)]
        return jax.tree.unflatten(structure, scaled), state

    return optax.GradientTransformation(init, update)


def scale_by_clipped_trust_ratio() -> optax.GradientTransformation:
    """Scales each tensor's update by min(|w| / |update|, 1), and by 1 where either norm is 0."""

    def update(updates, state, params):
        def scale(u, p):
            weight_norm, update_norm = jnp.linalg.norm(p), jnp.linalg.norm(u)
            usable = (weight_norm > 0) & (update_norm > 0)
            ratio = weight_norm / jnp.where(usable, update_norm, 1)
            return u * jnp.where(usable, jnp.minimum(ratio, 1), 1)

        return jax.tree.map(scale, updates, params), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
