"""What SpikingResformer refuses, and its training on one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsdt_jax.losses.classification import cross_entropy
from qsdt_jax.models import create_model, init_variables

TINY = {
    "channels": (8, 8, 8),
    "num_heads": (1, 1, 2),
    "depths": (1, 1, 1),
    "group_size": 8,
    "num_classes": 3,
    "timesteps": 2,
}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"channels": (8, 8)}, "channels are three positive numbers, one for each stage"),
        ({"depths": (1, 0, 1)}, "depths are three positive numbers"),
        ({"num_heads": (1, 3, 2)}, "3 heads do not divide 8 channels"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"timesteps": 0}, "timesteps must be at least 1"),
        ({"remat": "some"}, "remat must be one of none, blocks, spikes; got 'some'"),
        ({"norm_group": -1}, "norm_group must not be negative"),
        ({"nominal_size": -1}, "nominal_size must not be negative"),
        ({"nominal_size": 15}, "nominal_size 15 holds no patch in stage1"),
        ({"in_channels": 2, "image": (1, 16, 16, 3)}, "the network takes 2 channels, got 3"),
        ({"image": (1, 3, 16, 16, 3)}, "the network takes 2 time steps, got 3"),
        ({"image": (1, 12, 12, 3)}, "3x3 tokens hold no patch of 4x4"),
    ],
)
def test_what_does_not_fit_is_refused(fields, told):
    fields = dict(fields)
    image = jnp.zeros(fields.pop("image", (1, 16, 16, 3)))
    model = create_model("spikingresformer_ti", **{**TINY, **fields})
    with pytest.raises(ValueError, match=told):
        jax.eval_shape(model.init, jax.random.key(0), image)


def training_step(model, variables, images):
    """Logits, what is written, and the gradient of a sum of squares."""

    @jax.jit
    def step(params):
        given = {**variables, "params": params}
        logits, written = model.apply(given, images, train=True, mutable=["batch_stats"])
        return jnp.sum(logits**2), (logits, written)

    (_, (logits, written)), grads = jax.value_and_grad(step, has_aux=True)(variables["params"])
    return logits, written, grads


def close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12), found, expected)


@pytest.fixture
def net():
    """The fields of a network, a function that makes it, its variables, and images that fire."""
    with jax.enable_x64(True):

        def made(**fields):
            types = {"dtype": jnp.float64, "param_dtype": jnp.float64}
            return create_model("spikingresformer_cifar", **{**TINY, **types, **fields})

        generator = np.random.default_rng(0)
        images = generator.standard_normal((4, 8, 8, 3))
        shapes = jax.eval_shape(made().init, jax.random.key(0), images)
        drawn = jax.tree.map(lambda leaf: generator.uniform(0.1, 0.6, leaf.shape), shapes)
        yield made, drawn, images


@pytest.mark.slow
@pytest.mark.parametrize("rates", ["kept", "new"])
def test_groups_of_images_are_batches_of_their_own(net, rates):
    """Of equal variables: same logits, gradients that add up, and the mean of what each would leave."""
    made, variables, images = net
    if rates == "new":  # Those of a group's images take the place of zeros.
        statistics = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf * ("rate" not in path[-1].key), variables["batch_stats"]
        )
        variables = {**variables, "batch_stats": statistics}
    whole = training_step(made(norm_group=2), variables, images)
    first, second = (training_step(made(), variables, part) for part in (images[:2], images[2:]))
    close(whole[0], jnp.concatenate((first[0], second[0])))
    close(whole[1], jax.tree.map(lambda x, y: (x + y) / 2, first[1], second[1]))
    close(whole[2], jax.tree.map(jnp.add, first[2], second[2]))
    seen = [part[1]["batch_stats"]["stage1_dssa0"]["rate_x"] for part in (first, second)]
    assert np.all(np.abs(seen[0] - seen[1]) > 1e-9)  # So that the groups are seen to be apart.


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["blocks", "spikes"])
def test_what_is_computed_again_is_equal(net, remat):
    made, variables, images = net
    close(training_step(made(remat=remat), variables, images), training_step(made(), variables, images))
    program = jax.make_jaxpr(lambda x: made(remat=remat).apply(variables, x, True, mutable=["batch_stats"]))
    count = sum(equation.primitive.name == "remat2" for equation in program(images).eqns)
    assert count == 2 + 2 * 3


@pytest.mark.slow
def test_a_new_network_learns_a_batch_by_heart():
    """Its time constants move too."""
    model = create_model("spikingresformer_cifar", **TINY, learned_decay=True)
    variables = init_variables(model)
    generator = np.random.default_rng(0)
    images = generator.standard_normal((12, 8, 8, 3)).astype(np.float32)
    labels = generator.integers(0, 3, 12)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, statistics, state):
        def loss(params):
            given = {"params": params, "batch_stats": statistics}
            logits, written = model.apply(given, images, train=True, mutable=["batch_stats"])
            return jnp.mean(cross_entropy(logits, labels)), written["batch_stats"]

        (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), statistics, state, value

    params, statistics = variables["params"], variables["batch_stats"]
    state = optimizer.init(params)
    values = []
    for _ in range(60):
        params, statistics, state, value = step(params, statistics, state)
        values.append(float(value))
    assert values[0] == pytest.approx(np.log(3), abs=0.05)
    assert values[-1] < 0.2
    moved = np.array([abs(float(leaf)) for leaf in jax.tree.leaves(params) if leaf.ndim == 0])
    assert len(moved) == 3 * 6 + 2
    assert np.all(moved > 0)
