import functools
import math

import jax
import jax.numpy as jnp
import pytest

from qsdt_jax.models import (
    SIZES,
    Backbone,
    MaskRCNN,
    QSDTransformer,
    SpikingResformer,
    create_model,
)
from qsdt_jax.models.operations import layer_operations

TINY = {"channels": (8, 8, 16, 24), "depth": 4, "num_heads": 4, "in_channels": 2}


@pytest.mark.parametrize(
    ("size", "giga", "weights"),
    [
        ("S", 6.47, 15_015_072),
        pytest.param("M", 14.0, 31_193_520, marks=pytest.mark.slow),
        pytest.param("L", 24.8, 55_163_456, marks=pytest.mark.slow),
    ],
)
def test_published_sizes(size, giga, weights):
    layers = layer_operations(QSDTransformer(**SIZES[size]), (224, 224))
    macs = sum(layer.macs for layer in layers)
    assert float(f"{macs / 1e9:.3g}") == giga
    assert sum(layer.weights for layer in layers) == weights
    assert sum(layer.weights > 0 for layer in layers) == 138
    assert {layer.bits for layer in layers if layer.weights} == {4}


@pytest.mark.slow
@pytest.mark.parametrize("timesteps", [1, 2])
def test_macs_are_those_of_the_traced_program(timesteps):
    model = QSDTransformer(**TINY, num_classes=5, timesteps=timesteps)
    image = jax.ShapeDtypeStruct((1, 32, 48, 2), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    # The training forward: evaluation multiplies each digit of a real input.
    forward = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    program = jax.make_jaxpr(forward)(variables, image).jaxpr
    macs = sum(layer.macs for layer in layer_operations(model, (32, 48)))
    assert macs == _program_macs(program) > 0


def _program_macs(jaxpr) -> int:
    """Multiply-accumulates of all convolutions and dot products, in the branch of an unnamed platform."""
    total = 0
    for equation in jaxpr.eqns:
        shapes = [v.aval.shape for v in equation.invars]
        out = math.prod(equation.outvars[0].aval.shape)
        match equation.primitive.name:
            case "conv_general_dilated":
                total += out * math.prod(shapes[1][:-1])  # The kernel is (kh, kw, I, O).
                assert equation.params["dimension_numbers"].rhs_spec == (3, 2, 0, 1)
            case "dot_general":
                contracted = equation.params["dimension_numbers"][0][0]
                total += out * math.prod(shapes[0][i] for i in contracted)
            case "cond":
                total += _program_macs(equation.params["branches"][-1].jaxpr)
            case _:
                inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
                total += _program_macs(getattr(inner, "jaxpr", inner)) if inner is not None else 0
    return total


@pytest.mark.parametrize(
    ("name", "side", "layers", "products"),
    [
        ("spikingresformer_ti", 224, "3.74", "0.29"),
        pytest.param("spikingresformer_s", 224, "5.51", "0.35", marks=pytest.mark.slow),
        pytest.param("spikingresformer_m", 224, "10.20", "0.49", marks=pytest.mark.slow),
        pytest.param("spikingresformer_l", 224, "17.65", "0.71", marks=pytest.mark.slow),
        ("spikingresformer_cifar", 32, "1.19", "0.03"),
        pytest.param("spikingresformer_gesture", 64, "1.19", "0.24", marks=pytest.mark.slow),
        pytest.param("sdtv2_s", 224, "6.44", None, marks=pytest.mark.slow),
        pytest.param("sdtv2_m", 224, "13.95", None, marks=pytest.mark.slow),
        pytest.param("sdtv2_l", 224, "24.70", None, marks=pytest.mark.slow),
        pytest.param("sdtv2_xl", 224, "55.34", None, marks=pytest.mark.slow),
    ],
)
def test_published_networks_compared_with(name, side, layers, products):
    """G multiply-accumulates of one time step, counted in the published code; those of attention apart."""
    found = layer_operations(create_model(name, timesteps=1), (side, side))
    attention = sum(layer.macs for layer in found if layer.kind == "attention")
    assert f"{(sum(layer.macs for layer in found) - attention) / 1e9:.2f}" == layers
    assert products in (None, f"{attention / 1e9:.2f}")
    assert {layer.bits for layer in found if layer.weights} == {32}


def test_the_layers_of_a_spikingresformer():
    sizes = {"channels": (8, 16, 16), "num_heads": (1, 2, 4), "depths": (1, 1, 1), "group_size": 8}
    model = SpikingResformer(**sizes, num_classes=5, timesteps=2)
    layers = {layer.name: layer for layer in layer_operations(model, (64, 96))}
    assert {name for name, layer in layers.items() if not layer.spike_input} == {"stem/conv", "head"}
    # Stage 1 has 16 x 24 tokens and 4 x 6 pooled ones, in both time steps.
    of = "stage1_dssa0/"
    dssa = {name.removeprefix(of): layer for name, layer in layers.items() if name.startswith(of)}
    assert {name: x.macs for name, x in dssa.items()} == {
        "patch_conv": 2 * 24 * 4 * 4 * 8 * 16,
        "Y1 s^T": 2 * 24 * 384 * 8,
        "A^T Y2": 2 * 24 * 384 * 8,
        "proj_conv": 2 * 384 * 8 * 8,
    }
    assert {name: x.spikes for name, x in dssa.items()} == {
        "patch_conv": of + "neuron",
        "Y1 s^T": of + "neuron",
        "A^T Y2": of + "attn_neuron",
        "proj_conv": of + "out_neuron",
    }
    assert dssa["Y1 s^T"].output_shape == (1, 24, 384) and dssa["A^T Y2"].output_shape == (384, 8)
    assert dssa["A^T Y2"].inputs == 2 * 24 * (384 + 8)
    grouped = layers["stage2_gwffn0/conv"]
    assert (grouped.macs, grouped.weights) == (2 * 8 * 12 * 9 * 8 * 64, 9 * 8 * 64)


def test_kinds_and_inputs():
    model = QSDTransformer(**TINY, num_classes=5, bits=3)
    layers = {layer.name: layer for layer in layer_operations(model, (32, 32))}
    real = {name for name, layer in layers.items() if not layer.spike_input}
    after_depthwise = {name for name in layers if name.endswith(("sepconv/pwconv2", "repconv/conv2"))}
    merged = {name for name in layers if name.endswith("repconv/dwconv")}
    assert real == {"downsample1_1/conv"} | after_depthwise | merged
    assert len(after_depthwise) == 4 + 16
    assert {n for n, layer in layers.items() if layer.kind == "depthwise"} == merged | {
        f"conv_block{i}/sepconv/dwconv" for i in ("1_1", "1_2", "2_1", "2_2")
    }
    assert [n for n, layer in layers.items() if layer.kind == "dense"] == ["head"]

    depthwise = layers["conv_block2_1/sepconv/dwconv"]
    assert (depthwise.weights, depthwise.bits, depthwise.output_shape) == (7 * 7 * 16, 3, (4, 4, 16))
    assert depthwise.macs == 4 * 4 * 7 * 7 * 16
    kv = layers["block4_0/attn/k^T v"]
    assert (kv.kind, kv.macs, kv.weights, kv.bits) == ("attention", 4 * 4 * 6 * 6, 0, 0)
    assert kv.output_shape == (4, 6, 6)
    assert layers["head"].output_shape == (5,)


def test_backbone_alone_has_all_layers_but_the_head():
    backbone = layer_operations(Backbone(**TINY), (16, 32))
    classifier = layer_operations(QSDTransformer(**TINY, num_classes=5), (16, 32))
    assert backbone == classifier[:-1]
    assert classifier[-1].name == "head"


def test_refuses_an_image_that_does_not_fit():
    with pytest.raises(ValueError, match="multiples of 16"):
        layer_operations(Backbone(**TINY), (32, 40))


def test_weights_that_the_levels_of_a_detector_share_count_once():
    backbone = Backbone(**{**TINY, "depth": 2})
    model = MaskRCNN(backbone, 3, fpn_channels=8, box_features=16)
    image = jax.ShapeDtypeStruct((1, 32, 48, 2), jnp.float32)
    leaves = jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    )
    layers = layer_operations(model, (32, 48))
    assert sum(layer.weights for layer in layers) == sum(
        x.size for path, x in leaves if path[-1].key == "kernel"
    )
    assert sum(layer.name == "rpn/score" and layer.macs > 0 for layer in layers) == 5
