"""Networks by name, and the variables that they start with."""

import functools
import math
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsdt_jax
from qsdt_jax.errors import UserError
from qsdt_jax.jit_once import jit_once
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.models import (
    SIZES,
    Classifier,
    QSDTransformer,
    create_model,
    init_variables,
    initial,
    list_models,
)
from qsdt_jax.models.backbone import Backbone
from qsdt_jax.models.initial import threefry
from qsdt_jax.models.resformer import SpikingResformer
from qsdt_jax.models.shapes import variable_shapes
from qsdt_jax.models.zoo import MODELS, published_name

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
SMALL: dict[str, Any] = {"channels": (16, 16, 32, 32), "depth": 2, "num_heads": 2, "mlp_ratio": 1}


def test_models_by_name():
    classifiers = ["qsd_s", "qsd_m", "qsd_l", "qsd_xs", "qsd_l12", "qsd_xl"]
    resformers = [f"spikingresformer_{size}" for size in ("ti", "s", "m", "l", "cifar", "gesture")]
    others = [f"qsd_{size}_{kind}" for kind in ("seg", "det") for size in "sml"]
    sdtv2 = [f"sdtv2_{size}" for size in ("s", "m", "l", "xl")]
    assert list_models() == [*classifiers, *sdtv2, *resformers, *others]
    for name, size in zip(classifiers, SIZES.values(), strict=True):
        assert create_model(name) == QSDTransformer(**size)
    model = create_model("qsd_l12", num_classes=10, bits=2, depth=3)
    assert (model.backbone.channels, model.backbone.depth) == (SIZES["L12"]["channels"], 3)
    assert (model.num_classes, model.backbone.bits) == (10, 2)


def test_a_network_has_its_name_by_its_fields():
    for kind, models in MODELS.items():
        for name, fields in models.items():
            assert published_name(kind, {**fields, "num_classes": 7}) == name
    assert published_name(Classifier, {**SIZES["S"], "depth": 9}) is None


@pytest.mark.parametrize(
    ("size", "parameters", "second_head"),
    [
        ("s", 15_112_208, 361_000),
        slow("m", 31_333_864, 481_000),
        slow("l", 55_350_248, 641_000),
        slow("xl", 123_741_160, 961_000),
    ],
)
def test_published_sizes_of_sdtv2(size, parameters, second_head):
    for two in (False, True):
        shapes = variable_shapes(create_model(f"sdtv2_{size}", distillation_head=two))
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
        assert count == parameters + two * second_head


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("qsd_z", {}, r"no model 'qsd_z'; there are qsd_s, .*, qsd_l_det; did you mean 'qsd_\w+'\?"),
        ("resnet", {}, "no model 'resnet'; there are qsd_s, .*, qsd_l_det$"),
        ("qsd_s", {"num_clases": 10}, "a network has no field 'num_clases'; did you mean 'num_classes'"),
        ("qsd_s", {"parent": None}, "a network has no field 'parent'"),
        ("spikingresformer_s", {"bits": 4}, "a network has no field 'bits'"),
    ],
)
def test_wrong_names_are_told_with_the_nearest(name, fields, told):
    with pytest.raises(UserError, match=told):
        create_model(name, **fields)


@pytest.mark.parametrize(
    ("name", "parameters", "weights"),
    [
        ("spikingresformer_ti", 11_180_992, 11_141_312),
        slow("spikingresformer_s", 17_813_824, 17_761_472),
        slow("spikingresformer_m", 35_601_472, 35_523_776),
        slow("spikingresformer_l", 60_375_680, 60_270_976),
        slow("spikingresformer_cifar", 10_793_152, 10_753_472),
        slow("spikingresformer_gesture", 2_709_830, 2_689_952),
    ],
)
def test_published_sizes_of_spikingresformer(name, parameters, weights):
    """All parameters of the published code, and those of convolutions and the dense layer alone."""
    leaves = jax.tree.leaves(variable_shapes(create_model(name, timesteps=1))["params"])
    assert sum(leaf.size for leaf in leaves) == parameters
    assert sum(leaf.size for leaf in leaves if leaf.ndim > 1) == weights


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(create_model("qsd_s", num_classes=10, **SMALL), id="4 bits"),
        slow(
            create_model("qsd_s", num_classes=10, bits=1, rectify="norm", distillation_head=True, **SMALL),
            id="1 bit",
        ),
        slow(
            create_model("qsd_s", bits=32, neuron="relu", attention="softmax", in_channels=1, **SMALL),
            id="float",
        ),
        slow(
            create_model(
                "qsd_s",
                bits=8,
                bits_rules=(BitsRule(pattern="head", bits=32),),
                timesteps=2,
                neuron="lif",
                levels=1,
                **SMALL,
            ),
            id="8 bits",
        ),
        slow(create_model("sdtv2_s", distillation_head=True, **SMALL), id="no layer scales"),
        slow(Backbone(**SMALL), id="backbone"),
        slow(
            create_model(
                "spikingresformer_s",
                channels=[8, 8, 8],
                num_heads=[1, 1, 2],
                group_size=8,
                learned_decay=True,
            ),
            id="spikingresformer",
        ),
    ],
)
def test_initial_variables_are_those_of_the_network(model):
    """Bit for bit what `init` draws; what is computed of many draws may be rounded otherwise."""
    in_channels = getattr(model, "backbone", model).in_channels
    images = jnp.zeros((1, 32, 32, in_channels))
    method = "features" if isinstance(model, Backbone) else "__call__"
    expected = jit_once(lambda key: model.init(key, images, method=method))(jax.random.key(7))
    found = init_variables(model, seed=7)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), expected
    )
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        normal = "/head" in name or (isinstance(model, SpikingResformer) and name.endswith("kernel"))
        if name.endswith("step_size") or normal:  # A mean; a normal, by the inverse error function.
            np.testing.assert_allclose(one, other, rtol=3e-5, atol=1e-7, err_msg=name)
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_a_bits_rule_without_a_layer_is_refused():
    """Of a backbone, which has no head, as of a classifier."""
    head = (BitsRule(pattern="head", bits=8),)
    with pytest.raises(ValueError, match="'head' of a bits rule matches no layer"):
        init_variables(Backbone(**SMALL, bits_rules=head))


@pytest.mark.slow
def test_initial_variables_in_float64():
    with jax.enable_x64(True):
        model = create_model("qsd_s", num_classes=10, dtype=jnp.float64, param_dtype=jnp.float64, **SMALL)
        expected = jit_once(model.init)(jax.random.key(1), jnp.zeros((1, 32, 32, 3), jnp.float64))
        found = init_variables(model, seed=1)
        assert jax.tree.map(dtype, found) == jax.tree.map(dtype, expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), found, expected)


def dtype(x):
    return x.dtype


def test_lists_are_taken_for_tuples():
    rules = [BitsRule(pattern="head", bits=8)]
    model = create_model("qsd_s", **{**SMALL, "channels": list(SMALL["channels"])}, bits_rules=rules)
    assert hash(model) == hash(create_model("qsd_s", **SMALL, bits_rules=tuple(rules)))


def test_seeds_differ_and_repeat():
    model = create_model("qsd_s", **SMALL)
    kernels = [init_variables(model, seed)["params"]["head"]["kernel"] for seed in (0, 0, 1)]
    assert jnp.array_equal(kernels[0], kernels[1])
    assert not jnp.array_equal(kernels[0], kernels[2])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match=rf"the seed of initial variables is 0 to 2\^32 - 1, got {seed}"):
        init_variables(create_model("qsd_s", **SMALL), seed)


@pytest.mark.slow
def test_operations_that_numpy_does_not_compute_are_left_to_jax(monkeypatch):
    """As those of another version of JAX; equal seeds, up to the largest, mean the same draws."""
    model, seed = Backbone(**SMALL), 2**32 - 1
    expected = init_variables(model, seed)
    known = {name: compute for name, compute in initial.OPERATIONS.items() if name != "shift_right_logical"}
    monkeypatch.setattr(initial, "OPERATIONS", known)
    found = init_variables(model, seed)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5), found, expected)


def test_threefry_gives_the_words_of_its_authors():
    """Of the known answers that come with Random123."""
    ones = np.full(1, 0xFFFFFFFF, np.uint32)
    zeros = np.zeros(1, np.uint32)
    first, second = threefry(np.zeros(2, np.uint32), zeros, zeros)
    assert (first[0], second[0]) == (0x6B200159, 0x99BA4EFE)
    first, second = threefry(np.full(2, 0xFFFFFFFF, np.uint32), ones, ones)
    assert (first[0], second[0]) == (0x1CB996FC, 0xBB002BE7)


def test_the_package_gives_its_rooms_when_asked():
    """`import qsdt_jax` alone loads no library."""
    code = (
        "import sys, qsdt_jax\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules\n"
        "print(qsdt_jax.models.list_models()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "qsd_s\n"
    assert "models" in dir(qsdt_jax)
    with pytest.raises(AttributeError, match="no attribute 'modells'"):
        _ = qsdt_jax.modells
