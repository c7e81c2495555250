"""What a layer gives: composed until it is read, or computed at once."""

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.core.affine import Affine, real

Z = jnp.arange(-6.0, 6).reshape(2, 2, 3)
OFFSET, FACTOR = jnp.array([0.5, -1, 2]), jnp.array([2.0, -3, 0.25])


def test_both_kinds_have_the_same_values():
    """All numbers here are exact, so composing first changes nothing."""
    later, now = Affine(Z, scale=jnp.ones(3), shift=jnp.zeros(3)), Affine(Z)
    for y in (later, now):
        y = ((y + OFFSET) * FACTOR - OFFSET) * FACTOR
        np.testing.assert_array_equal(y.real, ((Z + OFFSET) * FACTOR - OFFSET) * FACTOR)
        assert y.shape == Z.shape


def test_what_is_composed_leaves_the_product_alone():
    y = (Affine(Z, scale=FACTOR, shift=OFFSET) * FACTOR) + OFFSET
    np.testing.assert_array_equal(y.values, Z)
    np.testing.assert_array_equal(y.scale, FACTOR * FACTOR)
    np.testing.assert_array_equal(y.shift, OFFSET * FACTOR + OFFSET)


def test_final_values_pass_through_transformations():
    """A pytree with nothing in the place of scale and shift."""
    y = jax.jit(lambda x: Affine(x) + OFFSET)(Z)
    assert (y.scale, y.shift) == (None, None)
    np.testing.assert_array_equal(real(y), Z + OFFSET)
    np.testing.assert_array_equal(real(Z), Z)
