"""Two mistakes that are made when counts are unrolled over virtual time steps, to show what they change.

A network that is trained with counts 0..D and run with binary spikes is the same network only if each sum
over the D slots is taken where it belongs, see `deploy.spike_driven`.
"""

from typing import TypeVar

import jax

from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.program import Linear, Program
from qsdt_jax.deploy.spike_driven import SpikeArithmetic, unroll

Folded = TypeVar("Folded", Program, FoldedDetector)


class SlotsAlone(SpikeArithmetic):
    """Attention run slot by slot, as a layer is: the terms of unequal slots are lost."""

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
        slots = zip(*(unroll(x, self.levels) for x in (q, k, v)), strict=True)
        multiply = IntegerArithmetic().attention
        first, *others = (multiply(q_slot, k_slot, v_slot, heads) for q_slot, k_slot, v_slot in slots)
        return sum(others, first)


def bias_in_every_slot(folded: Folded) -> Folded:
    """The network whose layers add their bias in each of the D slots, so D times, and not once.

    The bias is all that a layer adds, what was folded of a batch norm included. Layers that take real values
    run once and stay.
    """
    if isinstance(folded, FoldedDetector):
        return folded.replace(**{name: bias_in_every_slot(part) for name, part in folded.parts.items()})
    levels = folded.neuron.levels
    return folded.replace(
        steps=tuple(
            step.replace(shift=step.shift * levels) if isinstance(step, Linear) and step.spikes else step
            for step in folded.steps
        )
    )
