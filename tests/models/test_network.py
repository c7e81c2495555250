"""The network bears the names and gives the numbers that it had when the golden file was written."""

import json

import jax
import numpy as np
import pytest

from qsdt_jax.models import Backbone
from tests.golden.network import FILE, OPTIONS, described, images, network, variables_of

TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.slow
def test_names_shapes_first_values_and_answers():
    """Drop path too: each image's fate follows from the path of the module that draws it."""
    expected, found = json.loads(FILE.read_text()), described(network())
    assert list(found["tensors"]) == list(expected["tensors"])
    for name, (shape, *moments) in expected["tensors"].items():
        assert list(found["tensors"][name][0]) == shape, name
        np.testing.assert_allclose(found["tensors"][name][1:], moments, TOLERANCE, TOLERANCE, err_msg=name)
    for kind in ("training", "evaluation"):
        np.testing.assert_allclose(found[kind], expected[kind], TOLERANCE, TOLERANCE)
        assert np.std(expected[kind], axis=0).min() > 1e-4  # Images differ, so a mix-up shows.


@pytest.mark.slow
def test_the_backbone_alone_takes_the_classifiers_variables():
    """Its names are the same in any network that has one."""
    classifier = network()
    variables = variables_of(classifier)
    fields = {name: OPTIONS[name] for name in OPTIONS.keys() - {"num_classes", "distillation_head"}}
    backbone = Backbone(**fields)
    alone = jax.eval_shape(lambda: backbone.init(jax.random.key(5), images(), method="features"))
    heads = {"head", "head_dist"}
    for kind in ("params", "batch_stats"):
        own = {name: tree for name, tree in variables[kind].items() if name not in heads}
        assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, alone[kind])
    features = jax.jit(lambda v: backbone.apply(v, images(), method="features"))(variables)
    of_classifier = jax.jit(lambda v: classifier.apply(v, images(), method="features"))(variables)
    for stage, values in features.items():
        np.testing.assert_array_equal(values, of_classifier[stage], err_msg=stage)
