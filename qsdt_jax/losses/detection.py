"""The losses of Mask R-CNN (Ren et al., 2015; He et al., 2017): of proposals, of boxes and of masks.

Each is a sum over samples of all images of a step, divided by their number over all devices, but of one
micro-batch where steps accumulate. Without samples it is 0, and so is its gradient. All are in float32
at least. What belongs to a sample of weight 0 plays no role, but for NaN in what the network gives.
"""

import jax
import jax.numpy as jnp

from qsdt_jax.devices import device_count, sum_over_devices


def proposal_losses(
    scores: jax.Array, deltas: jax.Array, positive: jax.Array, weights: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Binary cross-entropy of sampled anchors, and the L1 distance of the deltas of positive ones.

    Args:
      scores: (B, S) logits that there is an object.
      deltas: (B, S, 4).
      positive: bool (B, S), whether there is one.
      weights: (B, S), 1 for a sample, 0 for an empty place.
      targets: (B, S, 4), of positive samples.

    Returns:
      Two scalars, both over the number of samples.
    """
    scores, deltas = _real(scores), _real(deltas)
    sampled, share = weights > 0, _share(jnp.sum(weights > 0), scores)
    cross_entropy = jnp.sum(jnp.where(sampled, _binary_cross_entropy(scores, positive), 0))
    return cross_entropy * share, _distance(deltas, targets, sampled & positive) * share


def box_losses(
    scores: jax.Array, deltas: jax.Array, category: jax.Array, weights: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of sampled regions, and the L1 distance of the deltas of their class, of those with one.

    Args:
      scores: (B, R, K + 1) logits; K is the background.
      deltas: (B, R, K, 4).
      category: (B, R) whole numbers 0..K.
      weights: (B, R), 1 for a sample, 0 for an empty place.
      targets: (B, R, 4), of regions with an object.

    Returns:
      Two scalars, both over the number of samples.
    """
    scores, deltas = _real(scores), _real(deltas)
    sampled, share = weights > 0, _share(jnp.sum(weights > 0), scores)
    losses = jax.nn.logsumexp(scores, axis=-1) - _of_class(scores, category)
    cross_entropy = jnp.sum(jnp.where(sampled, losses, 0))
    classes = deltas.shape[-2]
    own = _of_class(jnp.moveaxis(deltas, -2, -1), category[..., None])
    return cross_entropy * share, _distance(own, targets, sampled & (category < classes)) * share


def mask_loss(logits: jax.Array, category: jax.Array, weights: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of the masks of positive regions, each of its own class.

    Args:
      logits: (B, P, h, w, K).
      category: (B, P) whole numbers.
      weights: (B, P), 1 for a region with an object, else 0.
      targets: bool (B, P, h, w).

    Returns:
      A scalar, the mean over the pixels of positive regions.
    """
    logits = _real(logits)
    positive = weights > 0
    own = _of_class(logits, category[..., None, None])
    total = jnp.sum(jnp.where(positive[..., None, None], _binary_cross_entropy(own, targets), 0))
    return total * _share(jnp.sum(positive), logits) / (own.shape[-2] * own.shape[-1])


def _real(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _share(count: jax.Array, like: jax.Array) -> jax.Array:
    """What a sum over this device's samples is multiplied with, so that the mean over devices is the loss."""
    everywhere = sum_over_devices(count.astype(like.dtype))
    return device_count() / jnp.maximum(everywhere, 1)


def _binary_cross_entropy(logits: jax.Array, positive: jax.Array) -> jax.Array:
    return jax.nn.softplus(jnp.where(positive, -logits, logits))


def _distance(deltas: jax.Array, targets: jax.Array, counted: jax.Array) -> jax.Array:
    """The sum of |deltas - targets|, (B, S, 4) both, over what is counted (B, S)."""
    return jnp.sum(jnp.abs(jnp.where(counted[..., None], deltas - targets, 0)))


def _of_class(x: jax.Array, category: jax.Array) -> jax.Array:
    """The entry of a category in the last axis of x, 0 where there is none.

    As a sum over classes, whose gradient is no scatter.
    """
    is_category = category[..., None] == jnp.arange(x.shape[-1], dtype=category.dtype)
    return jnp.sum(jnp.where(is_category, x, 0), axis=-1)
