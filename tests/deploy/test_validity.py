"""The largest attention that int32 holds, and that a program with a larger one is refused."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.deploy.bundle import read_bundle
from qsdt_jax.deploy.validity import LARGEST_INT32, check_program
from qsdt_jax.errors import UserError
from qsdt_jax.layers import lowering

FILE = Path(__file__).parents[1] / "golden" / "digits.qsdt"


def test_attention_is_refused_where_int32_would_overflow():
    """The digits network has 8 channels a head in its last stage and fewer in the one before."""
    program = read_bundle(FILE).program
    program = program.replace(neuron=make_neuron(levels=127))
    assert 131 * 8 * 127**3 < LARGEST_INT32 < 132 * 8 * 127**3
    check_program(program, (16 * 1, 16 * 131))
    with pytest.raises(UserError, match=r"sums in block4_0/attn can reach \d+ \(132 tokens x 8 channels"):
        check_program(program, (16 * 11, 16 * 12))


@pytest.mark.parametrize("tokens", [174, 175])
def test_the_bound_is_that_of_the_arithmetic(tokens):
    """Reached where all spikes fire: sums up to it are right, the next ones are not."""
    counts = jnp.full((1, tokens, 6), 127, jnp.int8)
    found = np.asarray(lowering.integer_attention(counts, counts, counts, 1), np.int64)
    assert np.all(found == tokens * 6 * 127**3) == (tokens == 174)
