"""The spike-driven form: virtual time steps, binary spikes, additions wherever spikes come in.

Training fires counts c = 0..D. Here every count is unrolled over D virtual time steps ("slots") into binary
spikes, a thermometer code: slot d carries a spike iff c > d. So c = sum over d of s_d, and every linear layer
may run slot by slot,

    conv(c, W) = sum over d of conv(s_d, W),

each term a sum of those weights that a spike has selected: additions, no multiplications. Scale and shift
follow once, after the sum over the slots.

Attention is trilinear, so running it slot by slot would keep the terms of equal slots only, another function.
It is still spike-driven: k^T v is a sum over pairs of slots of binary products, ands that are counted, and q
(k^T v) adds the rows of k^T v that the spikes of q select,

    k^T v = sum over i, j of k_i^T v_j,    q (k^T v) = sum over d of q_d (k^T v).

What is not spike-driven: layers that receive real values, which are the stem, the second and third
convolution of every RepConv and the last one of every SepConv. They multiply and accumulate
(`program.Linear.spikes` says which): 6.7 % of the operations of the digits network, 10.6 % of size S at 224.

On the machine that simulates this, a product with a spike is a multiplication by 0 or 1.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from qsdt_jax.deploy import interpreter
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.program import Linear, Program

Counts = TypeVar("Counts", jax.Array, np.ndarray)


def unroll(counts: Counts, levels: int) -> list[Counts]:
    """Binary spikes of counts 0..D in D virtual time steps: int8 of that shape, slot d is 1 iff c > d."""
    return [(counts > d).astype(np.int8) for d in range(levels)]


@dataclasses.dataclass(frozen=True)
class SpikeArithmetic:
    """Sums over slots of products with binary spikes.

    Attributes:
      levels: D, the number of slots.
    """

    levels: int
    floats = False

    def product(self, counts: jax.Array, layer: Linear) -> jax.Array:
        # The slots lie behind each other as images do: one convolution, which compiles D times as fast.
        slots = jnp.concatenate(unroll(counts, self.levels))
        y = IntegerArithmetic().product(slots, layer)
        return jnp.sum(y.reshape(self.levels, -1, *y.shape[1:]), 0, dtype=jnp.int32)

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
        n, tokens, channels = q.shape
        split = [x.reshape(n, tokens, heads, channels // heads) for x in (q, k, v)]
        q_slots, k_slots, v_slots = (unroll(x, self.levels) for x in split)
        coincidences = _sum(
            jnp.einsum("nlhc,nlhd->nhcd", k_i, v_j, preferred_element_type=jnp.int32)
            for k_i in k_slots
            for v_j in v_slots
        )
        y = _sum(jnp.einsum("nlhc,nhcd->nlhd", q_d.astype(jnp.int32), coincidences) for q_d in q_slots)
        return y.reshape(q.shape)


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)


def spike_driven_forward(program: Program, images: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
    """Logits, as `interpreter.class_scores`, of what `interpreter.interpret` takes, spike by spike."""
    return interpreter.logits(program, images, SpikeArithmetic(program.neuron.levels), sizes)
