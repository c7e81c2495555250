from types import SimpleNamespace
from unittest import mock

import pytest

from benchmarks.profile import events_of, layer_of, purpose_of, summed, traced_seconds

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


def event(name: str, start: float, duration: float, **stats):
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=list(stats.items()))


def test_events_end_where_what_they_produce_is_consumed(tmp_path):
    """Numbers of what is produced are any; an event without one shares none."""
    events = [
        event("add", 0, 5, hlo_op="add"),
        event("dot", 10, 1, hlo_op="dot", _p=-3),
        event("mul", 20, 7, hlo_op="mul"),
        event("sub", 30, 8, hlo_op="sub"),
        event("end: dot", 50, 1, _c=-3),
        event("a thread's own", 60, 1),
    ]
    trace = SimpleNamespace(planes=[SimpleNamespace(lines=[SimpleNamespace(name="thread", events=events)])])
    (tmp_path / "a.xplane.pb").touch()
    with mock.patch("jax.profiler.ProfileData.from_file", lambda file: trace):
        found = sorted(events_of(tmp_path))
    assert found == [("add", 5), ("dot", 40), ("mul", 7), ("sub", 8)]
