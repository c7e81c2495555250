from types import SimpleNamespace

import pytest

from benchmarks.profile import layer_of, purpose_of, summed, traced_seconds

BACKWARD = "jit(step)/transpose(jvp(C))/backbone.features/conv_block1_1/sepconv/dwconv/jit(weight_gradient)/x"


def operation(opcode: str, op_name: str):
    return SimpleNamespace(opcode=opcode, type="f32[2]", attribute=lambda name: op_name)


@pytest.mark.parametrize(
    ("name", "purpose", "layer"),
    [
        (BACKWARD, "weight gradients", "conv_block/sepconv/dwconv"),
        ("jit(step)/jvp(C)/block3_0/attn/neuron/mul", "neurons", "block/attn/neuron"),
        (
            "jit(step)/jvp(C)/downsample2/bn/jit(_normalize_forward)/sub",
            "batch norm, forward",
            "downsample/bn",
        ),
        ("jit(step)/jvp(C)/head/bias/add", "others", "head/bias"),
        (
            "jit(step)/jvp(C)/C.f/block4_1/attn/attn._project/v_repconv/bn1/jit(_pad)/pad",
            "batch norm, border and statistics",
            "block/attn/qkv_repconv/bn1",
        ),
        ("jit(step)/mul", "optimiser and others", ""),
    ],
)
def test_purpose_and_layer(name, purpose, layer):
    assert (purpose_of(name), layer_of(name)) == (purpose, layer)


def test_a_loop_counts_by_what_it_runs():
    operations = {
        "w": operation("while", BACKWARD),
        "dot": operation("dot", BACKWARD),
        "add": operation("add", ""),
    }
    events = [("w", 9e9), ("dot", 2e9), ("dot", 1e9), ("add", 1e9), ("of another program", 5e9)]
    seconds = traced_seconds(events, operations)
    assert seconds == {"dot": 3.0, "add": 1.0}
    found = summed(seconds, operations, steps=2)
    assert found["milliseconds"] == 2000
    assert found["purposes"] == [
        {"name": "weight gradients", "operations": 1, "milliseconds": 1500.0, "share": 0.75},
        {"name": "optimiser and others", "operations": 1, "milliseconds": 500.0, "share": 0.25},
    ]
