"""The network of semantic segmentation: shapes, first values, padding, time, and what is computed again."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.models import Backbone, Segmenter, init_variables
from qsdt_jax.models.operations import layer_operations


def tiny(**fields: Any) -> Segmenter:
    backbone = {"channels": (4, 4, 8, 8), "depth": 2, "num_heads": 2, "mlp_ratio": 1, "layer_scale_init": 1.0}
    return Segmenter(Backbone(**{**backbone, **fields}), num_classes=3, fpn_channels=4)


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return spiking(init_variables(tiny(), 1))


def spiking(variables: dict[str, Any]) -> dict[str, Any]:
    """With batch norms that let spikes through everywhere."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.3 if path[-1].key == "bias" else leaf, variables
    )


def images(count: int = 2, height: int = 32, width: int = 48) -> jax.Array:
    return jax.random.normal(jax.random.key(3), (count, height, width, 3))


apply = jax.jit(lambda model, v, x, sizes=None: model.apply(v, x, False, sizes), static_argnums=0)


def test_initial_values():
    """Xavier in the neck, PyTorch's own in the head, a narrow normal for the classes; biases 0."""
    model = Segmenter(tiny().backbone, num_classes=150, fpn_channels=64)
    params = init_variables(model, 0)["params"]
    fpn, head = params["fpn"], params["seg_head"]
    for kernel, bound in (
        (fpn["lateral0"]["conv"]["kernel"], (6 / (2 + 64)) ** 0.5),
        (fpn["output1"]["conv"]["kernel"], (6 / (9 * 128)) ** 0.5),
        (head["branch3_2"]["conv"]["kernel"], (9 * 64) ** -0.5),
    ):
        assert 0.9 * bound < np.abs(kernel).max() <= bound
    assert abs(np.std(head["classifier"]["kernel"]) / 0.01 - 1) < 0.05
    for bias in (fpn["lateral0"]["conv"]["bias"], fpn["output3"]["conv"]["bias"], head["classifier"]["bias"]):
        np.testing.assert_array_equal(bias, 0)
    assert "bias" not in head["branch0_0"]["conv"]


def test_neck_and_head_may_have_bits_of_their_own():
    rules = (BitsRule(pattern=r"(fpn|seg_head)/.*", bits=32),)
    bits = {layer.name: layer.bits for layer in layer_operations(tiny(bits_rules=rules), (32, 32))}
    dense = {name for name in bits if name.startswith(("fpn/", "seg_head/"))}
    assert len(dense) == 4 + 4 + 7 + 1
    attention = {name for name in bits if name.endswith(("k^T v", "q (k^T v)"))}
    assert {name for name, of_name in bits.items() if of_name == 32} == dense
    assert {bits[name] for name in bits.keys() - dense - attention} == {4}


@pytest.mark.slow
def test_sizes_of_whole_images_change_nothing(variables):
    x = images()
    logits = apply(tiny(), variables, x)
    assert logits.shape == (2, 16, 24, 3)
    np.testing.assert_array_equal(apply(tiny(), variables, x, jnp.array([[32, 48], [32, 48]])), logits)


def test_time_steps_are_averaged_after_the_last_layer(variables):
    """Equal frames and a neuron without memory: as one step."""
    x, neuron = images(), {"neuron": "quantized_relu"}
    sizes = jnp.array([[32, 48], [20, 33]])
    one = apply(tiny(**neuron), variables, x, sizes)
    np.testing.assert_array_equal(apply(tiny(timesteps=2, **neuron), variables, x, sizes), one)


@pytest.mark.parametrize("remat", ["none", "blocks", "spikes"])
def test_what_is_computed_again(remat):
    model = tiny(remat=remat)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images())
    sizes = jnp.array([[32, 48], [20, 33]])
    for train, blocks in ((True, 0 if remat == "none" else 5 + 4 + 2 + 8 + 7), (False, 0)):
        run = functools.partial(model.apply, train=train, mutable=["batch_stats"])
        program = jax.make_jaxpr(lambda v, x, run=run: run(v, x, sizes=sizes))(shapes, images())
        assert sum(equation.primitive.name == "remat2" for equation in program.eqns) == blocks
