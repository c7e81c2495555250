"""Variables of one network in another."""

import functools

import jax
import numpy as np
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.models import Backbone, Classifier, QSDTransformer, Segmenter
from qsdt_jax.models.parts import Parts
from qsdt_jax.models.shapes import variable_shapes
from qsdt_jax.train.transfer import STEM_KERNEL
from qsdt_jax.train.transfer import transfer as transfer_between
from qsdt_jax.workdir.integrity import leaves_of

transfer = functools.partial(transfer_between, source_parts=Classifier.PARTS, target_parts=Classifier.PARTS)


def drawn(seed: int, **changes) -> dict:
    """Variables of a small network, every entry different."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: generator.random(leaf.shape, np.float32), shapes(**changes))


def drawn_segmenter(seed: int, num_classes: int = 3, fpn_channels: int = 4) -> dict:
    backbone = Backbone(channels=(8, 8, 16, 16), depth=2, num_heads=2)
    model = Segmenter(backbone, num_classes, fpn_channels)
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: generator.random(leaf.shape, np.float32), dict(variable_shapes(model)))


@functools.cache
def shapes(**changes) -> dict:
    options = {"channels": (8, 8, 16, 16), "depth": 2, "num_heads": 2, "num_classes": 6, **changes}
    return dict(variable_shapes(QSDTransformer(**options)))


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


def test_a_segmenter_takes_the_backbone_of_a_classifier():
    source, target = drawn(1), drawn_segmenter(2)
    taken, remarks = transfer_between(
        source, target, source_parts=Classifier.PARTS, target_parts=Segmenter.PARTS, new_head=True
    )
    assert jax.tree.structure(taken) == jax.tree.structure(target)
    found, backbone, fresh = (leaves_of(tree)[0] for tree in (taken, source, target))
    told = {remark.partition(":")[0]: remark.partition(": ")[2] for remark in remarks}
    for name, leaf in found.items():
        of_dense = name.split("/")[1] in ("fpn", "seg_head")
        np.testing.assert_array_equal(leaf, (fresh if of_dense else backbone)[name], err_msg=name)
        assert told.get(name, "").startswith("starts anew") == of_dense
    assert {name for name, words in told.items() if words == "left out"} == {
        f"params/head/{name}" for name in ("kernel", "bias", "step_size")
    }


def test_a_segmenter_takes_another_one_but_for_its_classes():
    between = functools.partial(transfer_between, source_parts=Segmenter.PARTS, target_parts=Segmenter.PARTS)
    source = drawn_segmenter(1)
    assert between(source, drawn_segmenter(2))[1] == []
    layer = "params/seg_head/classifier/"
    for target, others in ((drawn_segmenter(2, num_classes=4), False), (drawn_segmenter(2), True)):
        taken, remarks = between(source, target, new_head=others)
        assert_taken(taken, source, but=layer)
        assert_taken(taken["params"]["seg_head"]["classifier"], target["params"]["seg_head"]["classifier"])
        assert len(remarks) == 3 and all(remark.startswith(layer) for remark in remarks)
    with pytest.raises(UserError, match=r"params/fpn/lateral0/bn/bias: expected \[8\], found \[4\]"):
        between({"params": source["params"]}, {"params": drawn_segmenter(2, fpn_channels=8)["params"]})


def test_a_network_that_says_nothing_of_its_parts_fits_as_a_whole_or_not():
    with pytest.raises(UserError, match="params/head/bias: expected"):
        transfer_between(drawn(1, num_classes=10), drawn(2), source_parts=Parts(), target_parts=Parts())


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
