"""Optimisers and schedules of the published recipes, composed from optax."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

FINAL_LEARNING_RATE = 1e-6  # Where the cosine ends (published code).


def warmup_within(steps: float, total_steps: int) -> int:
    """A warm-up of so many steps where the run has more, else of half of the run (ours).

    So the rate of a recipe of 300 epochs still falls when it is tried for two. No run of two steps or more
    ends at its peak.
    """
    asked = round(min(steps, total_steps))
    return asked if asked <= total_steps - 2 else (total_steps - 1) // 2


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then half a cosine down to 1e-6, set at every step (published code).

    Raises:
      ValueError: the warm-up leaves no step for the cosine.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
        end_value=min(FINAL_LEARNING_RATE, peak),
    )
    # An int32 step would make optax compute in float32, also where everything else is float64.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


def decay_mask(params: Any) -> Any:
    """True for the tensors that decay: two or more axes (published code)."""
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
) -> optax.GradientTransformation:
    """AdamW on gradients clipped to a global norm, decaying tensors of two or more axes."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=decay_mask),
    )


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
