"""Learning rates of the published recipes by step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

# Shares of the peak that the warm-up starts from, in segmentation and in detection (published code).
POLYNOMIAL_START, MULTISTEP_START = 1e-6, 1e-3
DROP = 0.1  # Of the rate at each drop (mmdetection).


def warmup_within(steps: float, total_steps: int) -> int:
    """A warm-up of so many steps where the run has more, else of half of the run (ours).

    So the rate of a recipe of 300 epochs still falls when it is tried for two. No run of two steps or more
    ends at its peak.
    """
    asked = round(min(steps, total_steps))
    return asked if asked <= total_steps - 2 else (total_steps - 1) // 2


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int, final: float = 1e-6) -> optax.Schedule:
    """Linear warm-up from 0, then half a cosine, set at every step (published code).

    Args:
      peak: the highest rate.
      warmup_steps: of the rising line.
      total_steps: of the run; in the last of them the cosine is at its end.
      final: where the cosine ends, or at the peak where that is lower; 1e-6 in the published code.

    Raises:
      ValueError: the warm-up leaves no step for the cosine.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
        end_value=min(final, peak),
    )
    return lambda step: schedule(_real(step))


def warmup_polynomial(peak: float, warmup_steps: int, total_steps: int, power: float = 0.9) -> optax.Schedule:
    """Linear warm-up, then peak (1 - x)^power, with x rising from 0 to 1 (paper, section 5; mmengine).

    The warm-up of W steps starts from a millionth of the peak and reaches it in step W - 1; a single
    step is at the peak. The polynomial is at the peak in step W, and 0 in the last step.

    Args:
      peak: the highest rate.
      warmup_steps: W.
      total_steps: at least W + 2.
      power: of the polynomial.

    Raises:
      ValueError: the warm-up leaves fewer than two steps.
    """
    falling = total_steps - 1 - warmup_steps
    if falling < 1:
        raise ValueError(f"a warm-up of {warmup_steps} leaves less than two of {total_steps} steps")

    def schedule(step: jax.Array | int) -> jax.Array:
        done = _real(step)
        warm = _warm(done, warmup_steps, POLYNOMIAL_START)
        left = jnp.clip(1 - (done - warmup_steps) / falling, 0, 1)
        return peak * jnp.where(done < warmup_steps, warm, left**power)

    return schedule


def warmup_multistep(peak: float, warmup_steps: int, drops: Sequence[int]) -> optax.Schedule:
    """Linear warm-up, then the peak, and from each drop on a tenth of what it was (mmdetection; mmengine).

    The warm-up of W steps starts from a thousandth of the peak and reaches it in step W - 1; a single step is
    at the peak. A drop within the warm-up takes its tenth there.

    Args:
      peak: the highest rate.
      warmup_steps: W.
      drops: the first step of each smaller rate, in any order.
    """

    def schedule(step: jax.Array | int) -> jax.Array:
        done = _real(step)
        warm = _warm(done, warmup_steps, MULTISTEP_START)
        dropped = jnp.sum(done >= jnp.asarray(drops, done.dtype))
        return peak * jnp.where(done < warmup_steps, warm, 1.0) * DROP**dropped

    return schedule


def _warm(done: jax.Array, warmup_steps: int, start: float) -> jax.Array | float:
    """The share of the peak within a warm-up: from `start` in step 0 to 1 in the last of them."""
    return start + (1 - start) * done / (warmup_steps - 1) if warmup_steps > 1 else 1.0


def _real(step: jax.Array | int) -> jax.Array:
    """An int32 step would make JAX compute in float32, also where everything else is float64."""
    return jnp.asarray(step, jnp.result_type(float))
