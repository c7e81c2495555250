"""Distillation by logits: the student learns what the teacher answers."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

Target = Literal["soft", "hard"]


def logit_distillation(
    student: jax.Array, teacher: jax.Array, target: Target = "soft", temperature: float = 1.0
) -> jax.Array:
    """The distance of the student's logits from the teacher's, for each example.

    Args:
      student, teacher: (B, K) logits.
      target: "soft", the divergence t^2 KL(softmax(teacher / t) || softmax(student / t)) (Hinton et al.,
        2015); "hard", the cross-entropy with the teacher's first choice (DeiT, Touvron et al., 2021).
      temperature: t > 0, of the soft target.

    Returns:
      (B,) in nats, at least 0.
    """
    if target == "hard":
        return optax.softmax_cross_entropy_with_integer_labels(student, jnp.argmax(teacher, axis=-1))
    expected = jax.nn.log_softmax(teacher / temperature)
    found = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.sum(jnp.exp(expected) * (expected - found), axis=-1)
