"""Cross-entropy against the formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.losses.classification import cross_entropy

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.standard_normal((6, 5)) * 4
LABELS = GENERATOR.integers(0, 5, 6)
MIXED = GENERATOR.dirichlet(np.ones(5), 6)


def reference(logits, targets, smoothing):
    """-sum q log softmax, with q = (1 - smoothing) targets + smoothing / K."""
    log_probabilities = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    smooth = (1 - smoothing) * targets + smoothing / logits.shape[1]
    return -np.sum(smooth * log_probabilities, axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("soft", [False, True])
def test_formula(smoothing, soft):
    targets = MIXED if soft else np.eye(5)[LABELS]
    with jax.enable_x64(True):
        found = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(targets if soft else LABELS), smoothing)
    np.testing.assert_allclose(found, reference(LOGITS, targets, smoothing), rtol=1e-12)


def test_known_values():
    """Certain and right, certain and wrong, and knowing nothing."""
    logits = jnp.array([[1000.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0], [7.0, 7.0, 7.0, 7.0]])
    found = cross_entropy(logits, jnp.array([0, 1, 2]))
    np.testing.assert_allclose(found, [0.0, 1000.0, np.log(4)], rtol=1e-6)


def test_gradient_is_the_difference_of_the_probabilities():
    with jax.enable_x64(True):
        found = jax.grad(lambda x: jnp.sum(cross_entropy(x, jnp.asarray(LABELS), 0.1)))(jnp.asarray(LOGITS))
    probabilities = np.exp(LOGITS) / np.sum(np.exp(LOGITS), axis=1, keepdims=True)
    np.testing.assert_allclose(found, probabilities - (0.9 * np.eye(5)[LABELS] + 0.02), rtol=1e-10)


def test_narrow_logits_are_summed_in_float32():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    found = cross_entropy(logits, jnp.asarray(LABELS), 0.1)
    assert found.dtype == jnp.float32
    expected = reference(np.asarray(logits, np.float64), np.eye(5)[LABELS], 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-2)
