"""Distillation by logits."""

import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.losses.distillation import logit_distillation

STUDENT = jnp.array([[0.2, -1.0, 0.7], [3.0, 0.0, -2.0]])
TEACHER = jnp.array([[1.2, 0.3, -0.5], [0.0, 0.1, 4.0]])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_target_is_the_divergence(temperature):
    p, q = (softmax(np.asarray(x, np.float64) / temperature) for x in (TEACHER, STUDENT))
    expected = temperature**2 * (p * np.log(p / q)).sum(-1)
    found = logit_distillation(STUDENT, TEACHER, "soft", temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(logit_distillation(TEACHER, TEACHER, "soft", temperature), 0, atol=1e-6)


def test_hard_target_is_the_first_choice():
    probabilities = softmax(np.asarray(STUDENT, np.float64))
    expected = -np.log(probabilities[[0, 1], [0, 2]])
    np.testing.assert_allclose(logit_distillation(STUDENT, TEACHER, "hard"), expected, rtol=1e-5)
