import functools
import math

import jax
import jax.numpy as jnp
import pytest

from qsdt_jax.models import SIZES, Backbone, MaskRCNN, QSDTransformer
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
