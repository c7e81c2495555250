"""Variables of one network in another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.models import QSDTransformer
from qsdt_jax.train.transfer import STEM_KERNEL, transfer
from qsdt_jax.workdir.integrity import leaves_of


def drawn(seed: int, **changes) -> dict:
    """Variables of a small network, every entry different."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: generator.random(leaf.shape, np.float32), shapes(**changes))


@functools.cache
def shapes(**changes) -> dict:
    options = {"channels": (8, 8, 16, 16), "depth": 2, "num_heads": 2, "num_classes": 6, **changes}
    model = QSDTransformer(**options)
    image = jnp.zeros((1, 16, 16, model.backbone.in_channels))
    return dict(jax.eval_shape(model.init, jax.random.key(0), image))


def assert_taken(found, source, but: str = "nothing"):
    found, source = leaves_of(found)[0], leaves_of(source)[0]
    for name, leaf in found.items():
        if not name.startswith(but):
            np.testing.assert_array_equal(leaf, source[name], err_msg=name)


def test_same_network_takes_every_tensor():
    source, target = drawn(1), drawn(2)
    taken, remarks = transfer(source, target)
    assert remarks == []
    assert jax.tree.structure(taken) == jax.tree.structure(target)
    assert_taken(taken, source)


def test_other_classes_keep_the_fresh_head():
    source, target = drawn(1, num_classes=10), drawn(2)
    taken, remarks = transfer(source, target)
    assert_taken(taken, source, but="params/head/")
    for name in ("kernel", "bias", "step_size"):
        np.testing.assert_array_equal(taken["params"]["head"][name], target["params"]["head"][name])
    assert len(remarks) == 3 and all(remark.startswith("params/head/") for remark in remarks)


def test_as_many_classes_of_other_names_keep_the_fresh_head():
    source, target = drawn(1), drawn(2)
    taken, remarks = transfer(source, target, new_head=True)
    assert_taken(taken, source, but="params/head/")
    assert_taken(taken["params"]["head"], target["params"]["head"])
    assert len(remarks) == 3


def test_a_distillation_head_that_one_of_the_two_lacks():
    plain, double = drawn(1), drawn(2, distillation_head=True)
    taken, remarks = transfer(plain, double)
    assert_taken(taken, plain, but="params/head_dist/")
    assert_taken(taken["params"]["head_dist"], double["params"]["head_dist"])
    assert [remark.split(":")[1][:13] for remark in remarks] == [" starts anew,"] * 3
    taken, remarks = transfer(double, plain)
    assert_taken(taken, double)
    assert remarks == [f"params/head_dist/{name}: left out" for name in ("bias", "kernel", "step_size")]


def test_two_polarities_take_the_mean_of_rgb():
    source, target = drawn(1), drawn(2, in_channels=2)
    taken, remarks = transfer(source, target)
    assert_taken(taken, source, but=STEM_KERNEL)
    old, new = (leaves_of(tree)[0][STEM_KERNEL] for tree in (source, taken))
    for polarity in range(2):
        np.testing.assert_allclose(new[:, :, polarity], old.mean(2), rtol=1e-6)
    assert len(remarks) == 1 and STEM_KERNEL in remarks[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 4}, ("block3_1/", "not in this network")),
        ({"channels": (8, 8, 16, 32)}, ("block4_0/", "expected [", "found [")),
        ({"bits": 32}, ("step_size", "found nothing")),
    ],
)
def test_any_other_difference_is_named(changes, words):
    with pytest.raises(UserError) as caught:
        transfer(drawn(1, **changes), drawn(2))
    message = str(caught.value)
    assert "\n" not in message and "more" in message
    assert all(word in message for word in words), message
