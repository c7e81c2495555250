"""Classification losses."""

import jax
import jax.numpy as jnp
import optax


def each_step_cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """The mean over T of the cross-entropy of each time step (TET: Deng et al., ICLR 2022).

    Args:
      logits: (B, T, K).
      labels, label_smoothing: as of `cross_entropy`.

    Returns:
      (B,) losses.
    """
    steps = [cross_entropy(logits[:, t], labels, label_smoothing) for t in range(logits.shape[1])]
    return jnp.mean(jnp.stack(steps), axis=0)


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of each example, in nats.

    Args:
      logits: (B, K).
      labels: (B,) class indices, or (B, K) class probabilities (mixup, cutmix).
      label_smoothing: share of each label spread evenly over all K classes.

    Returns:
      (B,) losses.
    """
    classes = logits.shape[-1]
    targets = jax.nn.one_hot(labels, classes, dtype=logits.dtype) if labels.ndim == 1 else labels
    targets = (1 - label_smoothing) * targets + label_smoothing / classes
    return optax.softmax_cross_entropy(logits, targets.astype(jnp.promote_types(logits.dtype, jnp.float32)))
