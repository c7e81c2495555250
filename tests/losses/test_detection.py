"""The losses of Mask R-CNN against sums in NumPy, and where there is nothing to take them of."""

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.losses.detection import box_losses, mask_loss, proposal_losses

draw = np.random.default_rng(5)


def log_loss(probability: np.ndarray, positive: np.ndarray) -> np.ndarray:
    return -np.log(np.where(positive, probability, 1 - probability))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def nonsense(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x with what may stand in empty places."""
    return np.where(weights.reshape(weights.shape + (1,) * (x.ndim - weights.ndim)) > 0, x, -np.inf)


def test_proposals():
    scores, deltas, targets = (
        draw.normal(size=(2, 5)),
        draw.normal(size=(2, 5, 4)),
        draw.normal(size=(2, 5, 4)),
    )
    positive, weights = draw.random((2, 5)) < 0.5, (draw.random((2, 5)) < 0.7).astype(np.float32)
    of_score = (log_loss(sigmoid(scores), positive) * weights).sum() / weights.sum()
    of_box = (np.abs(deltas - targets).sum(-1) * weights * positive).sum() / weights.sum()
    found = proposal_losses(
        *map(jnp.asarray, (scores, deltas, positive, weights, nonsense(targets, weights)))
    )
    np.testing.assert_allclose(found, (of_score, of_box), rtol=1e-5)


def test_boxes():
    k = 3
    scores, deltas = draw.normal(size=(2, 6, k + 1)), draw.normal(size=(2, 6, k, 4))
    targets, category = draw.normal(size=(2, 6, 4)), np.array([[0, 1, 2, 3, 3, 1], [3, 3, 2, 0, 1, 3]])
    weights = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0]], np.float32)
    of_class = of_box = 0
    for b, r in zip(*np.nonzero(weights), strict=True):
        own = category[b, r]
        exponentials = np.exp(scores[b, r])
        of_class -= np.log(exponentials[own] / exponentials.sum())
        if own < k:
            of_box += np.abs(deltas[b, r, own] - targets[b, r]).sum()
    found = box_losses(*map(jnp.asarray, (scores, deltas, category, weights, nonsense(targets, weights))))
    np.testing.assert_allclose(found, (of_class / weights.sum(), of_box / weights.sum()), rtol=1e-5)


def test_masks():
    logits, targets = draw.normal(size=(2, 3, 4, 4, 5)), draw.random((2, 3, 4, 4)) < 0.5
    category, weights = np.array([[4, 0, 2], [1, 1, 5]]), np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    expected = np.mean(
        [log_loss(sigmoid(logits[b, p, ..., category[b, p]]), targets[b, p]) for b, p in np.argwhere(weights)]
    )
    found = mask_loss(*map(jnp.asarray, (logits, category, weights, targets)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_nothing_sampled_and_extreme_numbers():
    """Losses and gradients of nothing are 0; those of large logits and infinite targets elsewhere finite."""
    large = jnp.full((1, 2, 4), 1e4, jnp.bfloat16)
    targets, none = jnp.full((1, 2, 4), jnp.inf), jnp.zeros((1, 2))
    background = jnp.full((1, 2), 3)

    def losses(x, weights):
        of_proposals = proposal_losses(x[..., 0], x, jnp.zeros((1, 2), bool), weights, targets)
        of_boxes = box_losses(x, x[:, :, None].repeat(3, 2), background, weights, targets)
        of_masks = mask_loss(x[..., None, None, :], background, 0 * weights, jnp.zeros((1, 2, 1, 1), bool))
        return jnp.stack([*of_proposals, *of_boxes, of_masks])

    for weights, expected in ((none, np.zeros(5)), (none + 1, [1e4, 0, np.log(4), 0, 0])):
        found, grads = losses(large, weights), jax.jacrev(losses)(large, weights)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=4e-3)
        assert np.isfinite(np.asarray(grads, np.float32)).all()
        assert np.any(grads) == np.any(weights)
