"""The largest attention that int32 holds, and that a program with a larger one is refused."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.core.exact import LARGEST_INT32
from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.deploy.bundle import read_bundle
from qsdt_jax.deploy.program import IMAGES, Add, Linear, Pool, Program
from qsdt_jax.deploy.validity import check_program, check_sums
from qsdt_jax.errors import UserError
from qsdt_jax.layers import lowering
from qsdt_jax.layers.lowering import ConvGeometry
from tests.platforms import lowered_for

FILE = Path(__file__).parents[1] / "golden" / "digits.qsdt"


def test_attention_is_refused_where_int32_would_overflow():
    """The digits network has 8 channels a head in its last stage and fewer in the one before."""
    program = read_bundle(FILE).program
    program = program.replace(neuron=make_neuron(levels=127))
    assert 131 * 8 * 127**3 < LARGEST_INT32 < 132 * 8 * 127**3
    check_program(program, (16 * 1, 16 * 131))
    with pytest.raises(UserError, match=r"sums in block4_0/attn can reach \d+ \(132 tokens x 8 channels"):
        check_program(program, (16 * 11, 16 * 12))


def test_the_bound_on_products_is_what_float32_holds():
    weights = np.zeros((1, 1, 2048, 2), np.int8)
    weights[..., 1] = -64  # 64 * 2048 * 128 = 2^24
    check_sums("a layer", weights, 127)
    check_sums("a layer", weights, 128)
    with pytest.raises(UserError, match="sums in a layer can reach 16777344"):
        check_sums("a layer", np.concatenate([weights, [[[[0, 1]]]]], axis=2), 128)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("tokens", [174, 175])
def test_the_bound_is_that_of_the_arithmetic(tokens, platform):
    """Reached where all spikes fire: sums up to it are right, the next ones are not."""
    counts = jnp.full((1, tokens, 6), 127, jnp.int8)
    product = lowered_for(platform, lambda q, k, v: lowering.integer_attention(q, k, v, 1))
    found = np.asarray(product(counts, counts, counts), np.int64)
    assert np.all(found == tokens * 6 * 127**3) == (tokens == 174)


def dense(name: str, outputs: int) -> Linear:
    """Of the mean colour of an image."""
    return Linear(
        name=name,
        input="mean",
        spikes=False,
        geometry=ConvGeometry(),
        bits=4,
        weights=np.ones((1, 1, 3, outputs), np.int8),
        scale=np.ones(outputs, np.float32),
        shift=np.zeros(outputs, np.float32),
    )


@pytest.mark.parametrize(("left", "right"), [(1, 5), (5, 1)])
def test_a_sum_has_operands_of_one_shape(left, right):
    """Array libraries repeat the smaller one; a program says what it does."""
    steps = (Pool(name="mean", input=IMAGES), dense("a", left), dense("b", right))
    steps = (*steps, Add(name="sum", left="a", right="b"))
    program = Program(steps=steps, neuron=make_neuron(), outputs=(("logits", "sum"),))
    told = rf"step sum adds a \[1, 1, 1, {left}\] and b \[1, 1, 1, {right}\]; expected one shape"
    with pytest.raises(UserError, match=told):
        check_program(program, (16, 16))


@pytest.mark.parametrize(("value", "classes"), [("mean", 3), ("sum", 3), ("other", 5)])
def test_the_classes_are_the_channels_of_the_logits(value, classes):
    """Wherever the channels come from: a layer, or the images themselves."""
    steps = (Pool(name="mean", input=IMAGES), dense("a", 3), Add(name="sum", left="mean", right="a"))
    steps = (*steps, dense("other", 5))
    program = Program(steps=steps, neuron=make_neuron(), outputs=(("logits", value),))
    check_program(program, (16, 16))
    assert program.num_classes == classes
