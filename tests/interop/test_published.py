"""Importing published weights by name and layout."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.interop import from_torch, to_torch, torch_name
from qsdt_jax.interop.architecture import class_count
from qsdt_jax.models import Classifier, QSDTransformer, Segmenter
from qsdt_jax.models.shapes import variable_shapes

DATA = Path(__file__).parent / "data"
TINY = {"channels": (8, 16, 24, 32), "depth": 4, "num_classes": 10}
MODEL = QSDTransformer(**TINY)


def draw(model: Classifier) -> dict:
    """Variables with a different positive number in every place."""
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: generator.uniform(0.1, 2, s.shape).astype(s.dtype), dict(variable_shapes(model))
    )


@pytest.fixture(scope="module")
def variables() -> dict:
    return draw(MODEL)


@pytest.fixture
def tensors(variables) -> dict[str, np.ndarray]:
    return to_torch(variables)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=str(path))


def refusal(source, model=MODEL) -> str:
    with pytest.raises(UserError) as caught:
        from_torch(model, source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names and shapes of the published code for widths 8, 16, 24, 32, one for each kind of layer.
PUBLISHED_SHAPES = {
    "downsample1_1.encode_conv.weight": (4, 3, 7, 7),
    "downsample1_1.encode_conv.bias": (4,),
    "downsample1_1.encode_conv.alpha": (4,),
    "downsample1_1.encode_bn.running_var": (4,),
    "ConvBlock1_1.0.Conv.pwconv1.weight": (8, 4, 1, 1),
    "ConvBlock1_1.0.Conv.bn1.weight": (8,),
    "ConvBlock1_1.0.Conv.dwconv.weight": (8, 1, 7, 7),
    "ConvBlock1_1.0.Conv.pwconv2.weight": (4, 8, 1, 1),
    "ConvBlock1_1.0.Conv.bn2.running_mean": (4,),
    "ConvBlock1_1.0.conv1.weight": (16, 4, 3, 3),
    "ConvBlock1_1.0.bn1.bias": (16,),
    "ConvBlock1_1.0.conv2.weight": (4, 16, 3, 3),
    "ConvBlock1_1.0.bn2.bias": (4,),
    "downsample1_2.encode_conv.weight": (8, 4, 3, 3),
    "ConvBlock1_2.0.conv1.alpha": (32,),
    "ConvBlock2_1.0.conv1.alpha": (64,),
    "ConvBlock2_2.0.conv1.alpha": (64,),
    "downsample3.encode_conv.weight": (24, 16, 3, 3),
    "block3.2.layer_scale1": (24,),
    "block3.0.layer_scale2": (24,),
    "block3.0.attn.q_conv.0.body.0.weight": (24, 24, 1, 1),
    "block3.0.attn.q_conv.0.body.0.alpha": (24,),
    "block3.0.attn.k_conv.0.body.1.bn.running_mean": (24,),
    "block3.0.attn.v_conv.0.body.2.0.weight": (24, 1, 3, 3),
    "block3.1.attn.proj_conv.0.body.2.1.weight": (24, 24, 1, 1),
    "block3.0.attn.q_conv.0.body.2.2.weight": (24,),
    "block3.0.attn.proj_conv.1.running_var": (24,),
    "block3.0.mlp.fc1_conv.weight": (96, 24, 1),
    "block3.0.mlp.fc1_bn.weight": (96,),
    "block3.0.mlp.fc2_conv.weight": (24, 96, 1),
    "block3.0.mlp.fc2_conv.bias": (24,),
    "downsample4.encode_bn.bias": (32,),
    "block4.0.mlp.fc2_bn.running_mean": (32,),
    "head.weight": (10, 32),
    "head.bias": (10,),
    "head.alpha": (10,),
}


def test_published_names_and_shapes(tensors):
    assert {name: tensors[name].shape for name in PUBLISHED_SHAPES} == PUBLISHED_SHAPES
    assert len(tensors) == 494  # As many as the published code has for a net of depth 4.


def test_torch_name():
    path = ("block3_1", "attn", "k_repconv", "bn1", "mean")
    assert torch_name(path) == "block3.1.attn.k_conv.0.body.1.bn.running_mean"
    path = ("block4_11", "attn", "proj_bn", "scale")
    assert torch_name(path) == "block4.11.attn.proj_conv.1.weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [{}, {"bits": 32, "in_channels": 2}, {"param_dtype": jnp.bfloat16}], ids=str
)
def test_round_trip_is_bitwise(overrides):
    model = QSDTransformer(**TINY, **overrides)
    expected = draw(model)
    assert_same(from_torch(model, to_torch(expected)), expected)


def test_layouts(tensors):
    """Entry by entry against the definition: conv (O, I, h, w) and dense (O, I) in PyTorch."""
    params = from_torch(MODEL, tensors)["params"]
    conv = tensors["downsample1_1.encode_conv.weight"]
    kernel = params["downsample1_1"]["conv"]["kernel"]
    assert kernel.shape == (7, 7, 3, 4)
    assert kernel[1, 5, 2, 3] == conv[3, 2, 1, 5]
    depthwise = tensors["block3.0.attn.v_conv.0.body.2.0.weight"]
    kernel = params["block3_0"]["attn"]["v_repconv"]["dwconv"]["kernel"]
    assert kernel.shape == (3, 3, 1, 24)
    assert kernel[0, 2, 0, 7] == depthwise[7, 0, 0, 2]
    pointwise = tensors["block3.0.mlp.fc1_conv.weight"]
    kernel = params["block3_0"]["mlp"]["fc1"]["kernel"]
    assert kernel.shape == (1, 1, 24, 96)
    assert kernel[0, 0, 3, 50] == pointwise[50, 3, 0]
    assert params["head"]["kernel"][20, 4] == tensors["head.weight"][4, 20]


def test_batch_norm_entries_are_not_confused(tensors):
    variables = from_torch(MODEL, tensors)
    name = "block4.0.attn.q_conv.0.body.2.2."
    params = variables["params"]["block4_0"]["attn"]["q_repconv"]["bn2"]
    stats = variables["batch_stats"]["block4_0"]["attn"]["q_repconv"]["bn2"]
    for found, kind in [
        (params["scale"], "weight"),
        (params["bias"], "bias"),
        (stats["mean"], "running_mean"),
        (stats["var"], "running_var"),
    ]:
        np.testing.assert_array_equal(found, tensors[name + kind])


def test_result_is_cast_and_owns_its_memory(tensors, variables):
    doubles = {name: array.astype(np.float64) for name, array in tensors.items()}
    found = from_torch(MODEL, doubles)
    for array in doubles.values():
        array[...] = -1
    assert_same(found, variables)


def test_dead_entries_and_the_ddp_prefix_are_tolerated(tensors, variables):
    dead = {
        "downsample1_1.encode_bn.num_batches_tracked": np.array(7),
        "head.init_state": np.ones(1),
        "head.signed": np.zeros(1),
        "head.act.alpha": np.ones(1),
        "block3.0.attn.q_conv.0.body.0.act.zero_point": np.ones(1),
        "block3.0.mlp.fc1_conv.act.init_state": np.ones(1),
        "block3.0.mlp.fc1_conv.act.signed": np.ones(1),
    }
    source = {f"module.{name}": array for name, array in (tensors | dead).items()}
    assert_same(from_torch(MODEL, source), variables)


@pytest.mark.parametrize("bits", [1, 32])
def test_model_without_step_sizes_leaves_those_of_the_file_aside(tensors, variables, bits):
    found = from_torch(QSDTransformer(**TINY, bits=bits), tensors)
    assert found["params"]["head"].keys() == {"kernel", "bias"}
    np.testing.assert_array_equal(found["params"]["head"]["kernel"], variables["params"]["head"]["kernel"])


def test_misfits_are_named_with_their_shapes(tensors):
    del tensors["head.bias"]
    tensors["block3.0.unheard_of"] = np.zeros((2, 5))
    tensors["head.weight"] = np.zeros((1000, 32))
    assert refusal(tensors) == (
        "the mapping does not fit the model; "
        "missing (1): head.bias (10,); "
        "unknown (1): block3.0.unheard_of (2, 5); "
        "of another shape (1): head.weight expected (10, 32) found (1000, 32)"
    )


def test_another_kind_of_network_is_told_as_such():
    """And not by the names of hundreds of tensors."""
    classifier, segmenter = QSDTransformer(**TINY), Segmenter(MODEL.backbone, num_classes=5)
    of_images, of_pixels = np.zeros((10, 32)), np.zeros((5, 128, 1, 1))
    for model, source, found, expected in [
        (classifier, {"backbone.x": 0, "decode_head.conv_seg.weight": of_pixels}, "segmenter", "classifier"),
        (segmenter, {"block3.0.x": 0, "head.weight": of_images}, "classifier", "segmenter"),
    ]:
        told = f"the mapping holds a {found}, but the network described by the configuration is a {expected}"
        assert refusal(source, model) == told


@pytest.mark.parametrize("shape", [None, (10, 32, 1, 1)])
def test_a_file_without_a_layer_of_classes(shape):
    tensors = {"block3.0.x": np.zeros(3)} | ({"head.weight": np.zeros(shape)} if shape else {})
    told = (
        r"no tensor head\.weight of 2 axes and no decode_head\.conv_seg\.weight of 4 axes and no "
        r"roi_head\.mask_head\.conv_logits\.1\.0\.weight of 4 axes and no prologue\.0\.weight of 4 axes; "
        r"it has \d tensor"
    )
    with pytest.raises(UserError, match=told):
        class_count("the file", tensors)


def test_at_most_five_of_a_kind_are_named(tensors):
    text = refusal({"head.bias": tensors["head.bias"]})
    assert "missing (493): " in text and text.endswith(" and 488 more")
    assert sum(name in text for name in tensors) == 5


def test_entries_that_only_look_dead_are_unknown(tensors):
    names = ["other.act.alpha", "other.num_batches_tracked", "head.act.scale", "x.alpha"]
    text = refusal(tensors | dict.fromkeys(names, np.array(0)))
    assert "unknown (4): " in text and all(f"{name} ()" in text for name in names)


def test_step_sizes_must_be_positive(tensors):
    names = ["downsample2.encode_conv.alpha", "downsample4.encode_conv.alpha", "head.alpha"]
    for name, value in zip(names, (0.0, -0.1, np.nan), strict=True):
        tensors[name][3] = value
    assert refusal(tensors) == (
        f"the mapping: step sizes must be positive; found others in {', '.join(names)}"
    )


def test_to_torch_gives_its_own_memory(tensors, variables):
    head = variables["params"]["head"]
    assert not np.shares_memory(tensors["head.alpha"], head["step_size"])
    assert tensors["head.weight"].flags["C_CONTIGUOUS"]


def test_both_a_name_and_its_prefixed_twin(tensors):
    text = refusal(tensors | {"module.head.bias": tensors["head.bias"]})
    assert "'head.bias' and 'module.head.bias'" in text


def test_file_of_another_network_is_refused_by_its_path():
    path = DATA / "checkpoint.pth"
    text = refusal(path)
    assert text.startswith(f"{path} does not fit the model; missing (494): ")
    assert "unknown (7): 0.weight (3, 2, 1, 1), 0.bias (3,)" in text


def test_rectify_norm_has_no_place_in_the_published_files(tensors):
    model = QSDTransformer(**TINY, rectify="norm")
    assert "only models with rectify='bn' convert" in refusal(tensors, model)
    with pytest.raises(UserError, match="block3_0/attn/q_rectify/norm/scale"):
        torch_name(("block3_0", "attn", "q_rectify", "norm", "scale"))
