"""FGD against NumPy and finite differences, and what it must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.losses.fgd import Projections, fgd_loss, gram_matrices, matching_block

HEADS = 2
NORMALIZATIONS = ("frobenius", "cosine")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(seed: int, channels: int = 6, size: tuple[int, int] = (2, 3), heads: int = HEADS) -> Projections:
    generator = np.random.default_rng(seed)
    q, k, v = (jnp.asarray(generator.random((2, *size, channels)) - 0.3) for _ in "qkv")
    return Projections(q=q, k=k, v=v, num_heads=heads)


def each(block: Projections, function) -> Projections:
    return block.replace(**{name: function(getattr(block, name)) for name in "qkv"})


def reference(student, teacher, normalization: str) -> float:
    """The formula, one image and head at a time."""
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
        for name in "qkv":
            x, y = np.asarray(getattr(own, name)), np.asarray(getattr(other, name))
            for image in range(len(x)):
                for h in range(HEADS):
                    difference = 0.0
                    for sign, z in ((1, x), (-1, y)):
                        d = z.shape[-1] // HEADS
                        tokens = z[image].reshape(-1, z.shape[-1])[:, h * d : (h + 1) * d]
                        if normalization == "cosine":
                            tokens = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
                            gram = tokens @ tokens.T / len(tokens)
                        else:
                            gram = tokens @ tokens.T
                            gram = gram / np.linalg.norm(gram)
                        difference = difference + sign * gram
                    total += np.linalg.norm(difference) / len(x)
    return total


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_formula(normalization):
    student, teacher = [draw(0), draw(1)], [draw(2, channels=10), draw(3, channels=4)]
    found = fgd_loss(student, teacher, normalization)
    assert float(found) == pytest.approx(reference(student, teacher, normalization), rel=1e-12)
    assert float(found) > 0.1


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradient_is_that_of_finite_differences(normalization):
    student, teacher = [draw(0), draw(1)], [draw(2), draw(3)]
    direction = [draw(4), draw(5)]

    def loss(t):
        return fgd_loss(jax.tree.map(lambda x, d: x + t * d, student, direction), teacher, normalization)

    step = 1e-6
    expected = (loss(step) - loss(-step)) / (2 * step)
    assert float(jax.grad(loss)(0.0)) == pytest.approx(float(expected), rel=1e-7)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_zero_for_identical_nets(normalization):
    blocks = [draw(0), draw(1)]
    loss, gradient = jax.value_and_grad(lambda own: fgd_loss(own, blocks, normalization))(blocks)
    assert float(loss) < 1e-14  # The compiler may round the two sides differently.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    # One program for both, as NumPy's: exactly nothing is left.
    grams = gram_matrices(blocks[0].q, HEADS, normalization)
    assert float(jnp.abs(grams - gram_matrices(blocks[0].q, HEADS, normalization)).max()) == 0


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_head_of_nothing_but_zeros_has_a_finite_gradient(normalization):
    silent = each(draw(0), jnp.zeros_like)
    loss, gradient = jax.value_and_grad(lambda own: fgd_loss([own], [draw(1)], normalization))(silent)
    assert np.isfinite(float(loss))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_width_of_heads_and_order_of_channels_play_no_role(normalization):
    """Each head's channels turned into a wider space, then shuffled within the head."""
    teacher, d, wide = draw(1), 3, 5
    generator = np.random.default_rng(6)
    turn = np.linalg.qr(generator.normal(size=(wide, wide)))[0][:d] * 1.7
    order = np.concatenate([h * wide + generator.permutation(wide) for h in range(HEADS)])

    def widened(x):
        heads = x.reshape(*x.shape[:3], HEADS, d) @ turn
        return heads.reshape(*x.shape[:3], HEADS * wide)[..., order]

    expected = float(fgd_loss([draw(0)], [teacher], normalization))
    assert float(fgd_loss([draw(0)], [each(teacher, widened)], normalization)) == pytest.approx(expected)
    across = np.arange(HEADS * d).reshape(HEADS, d).T.reshape(-1)  # Across heads the order does matter.
    mixed = each(teacher, lambda x: x[..., across])
    assert abs(float(fgd_loss([draw(0)], [mixed], normalization)) - expected) > 1e-3


@pytest.mark.parametrize(("normalization", "largest"), [("frobenius", 1.0), ("cosine", 1.0)])
def test_norms_of_gram_matrices(normalization, largest):
    norms = np.linalg.norm(gram_matrices(draw(0).q, HEADS, normalization), axis=(-2, -1))
    assert norms.shape == (2, HEADS)
    assert (norms <= largest + 1e-12).all()
    if normalization == "frobenius":
        np.testing.assert_allclose(norms, 1)
    grams = gram_matrices(draw(0).q, HEADS, "cosine") * 6
    np.testing.assert_allclose(np.diagonal(grams, axis1=-2, axis2=-1), 1)


def test_other_numbers_of_tokens_and_heads():
    """A flat teacher at twice the size teaches nothing new; heads unlike are taken together."""
    student = draw(0)
    large = each(student, lambda x: jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
    flat = each(student, lambda x: jnp.broadcast_to(x[:, :1, :1], x.shape))
    flat_large = each(large, lambda x: jnp.broadcast_to(x[:, :1, :1], x.shape))
    assert float(fgd_loss([flat], [flat_large])) < 1e-7
    three = each(student, lambda x: x[..., ::-1]).replace(num_heads=3)
    assert float(fgd_loss([student], [three])) < 1e-7


def test_matching_of_blocks():
    """round((i + 1) m / n) - 1, and never before the first."""
    assert [matching_block(i, 8, 12) for i in range(8)] == [1, 2, 4, 5, 7, 8, 10, 11]
    assert [matching_block(i, 4, 4) for i in range(4)] == [0, 1, 2, 3]
    assert [matching_block(i, 8, 2) for i in range(8)] == [0, 0, 0, 0, 0, 1, 1, 1]
