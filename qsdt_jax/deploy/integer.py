"""The integer form: int8 counts x int8 weights -> int32, one scale and shift per channel, the next neuron."""

import jax
import jax.numpy as jnp

from qsdt_jax.deploy import interpreter
from qsdt_jax.deploy.program import Linear, Program
from qsdt_jax.layers import lowering


class IntegerArithmetic:
    """Counts and weights multiplied as int8, summed in int32."""

    floats = False

    def product(self, counts: jax.Array, layer: Linear) -> jax.Array:
        return lowering.convolve(counts, layer.weights, layer.geometry, jnp.int32)

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
        return lowering.integer_attention(q, k, v, heads)


def integer_forward(program: Program, images: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
    """Logits, as `interpreter.class_scores`, of what `interpreter.interpret` takes, by the integer form."""
    return interpreter.logits(program, images, IntegerArithmetic(), sizes)
