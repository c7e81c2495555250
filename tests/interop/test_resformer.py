"""Names, shapes and fields of published checkpoints of SpikingResformer."""

import numpy as np
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.interop import from_torch, to_torch
from qsdt_jax.interop.architecture import class_count, fields_of
from qsdt_jax.interop.resformer import torch_name
from qsdt_jax.models import SpikingResformer, create_model
from qsdt_jax.models.shapes import variable_shapes
from tests.golden.resformer import CASES, case


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_the_published_ones_and_go_both_ways(name):
    net = case(name)
    weights = {name: array.astype(np.float32) for name, array in net.weights().items()}
    counted = {**weights, "prologue.1.bn.num_batches_tracked": np.array(7)}
    fields = fields_of("the file", counted)
    model = SpikingResformer(**fields, timesteps=2)
    again = to_torch(from_torch(model, counted))
    assert again.keys() == weights.keys()
    for tensor, array in weights.items():
        np.testing.assert_array_equal(again[tensor], array, err_msg=tensor)
        assert again[tensor].shape == array.shape, tensor
    known = {field: getattr(net.model, field) for field in fields}
    assert fields == known


def test_parameters_are_as_many_as_the_published_ones():
    for name in CASES:
        params = variable_shapes(SpikingResformer(**fields_of(name, case(name).weights())))["params"]
        count = sum(np.prod(leaf.shape, dtype=int) for leaf in _leaves(params))
        assert count == case(name).config["parameters"]


def _leaves(tree):
    return [leaf for part in tree.values() for leaf in (_leaves(part) if isinstance(part, dict) else [part])]


def test_files_of_others_are_refused():
    weights = case("t1").weights()
    model = SpikingResformer(**fields_of("t1", weights))
    without = {name: array for name, array in weights.items() if name != "classifier.weight"}
    with pytest.raises(UserError, match=r"no tensor classifier\.weight of 2 axes$"):
        class_count("the file", without)
    with pytest.raises(UserError, match=r"no tensor head\.weight .* as of another network"):
        fields_of("the file", {"classifier.weight": np.zeros((10, 4))})
    rate = "layers.0.0.firing_rate_x"
    with pytest.raises(UserError, match=rf"{rate} of 5 axes, found one of shape \(1,\)"):
        fields_of("the file", {**weights, rate: np.zeros(1)})
    missing = {name: array for name, array in weights.items() if name != rate}
    with pytest.raises(UserError, match=rf"does not fit the model; missing \(1\): {rate}"):
        from_torch(model, missing)
    with pytest.raises(UserError, match=r"holds a classifier, but .* is a SpikingResformer"):
        from_torch(model, {"head.weight": np.zeros((10, 4))})
    with pytest.raises(UserError, match=r"holds a SpikingResformer, but .* is a classifier"):
        from_torch(create_model("sdtv2_s"), weights)
    with pytest.raises(ValueError, match="no module 'block3_0'"):
        torch_name(("block3_0", "attn"))
