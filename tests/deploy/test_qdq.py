"""The graph with Q/DQ pairs: each step, by what comes into it, in ONNX Runtime with and without fusions."""

import functools
import math

import numpy as np
import onnx
import onnxruntime
import pytest

from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.deploy import reference
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.graphs.onnx_qdq import export_qdq
from qsdt_jax.deploy.program import IMAGES, LOGITS, Bilinear, Fire, Linear, Pool, Program
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.layers.lowering import ConvGeometry
from tests.deploy.nets import draw_images, draw_variables, short_net, tiny_net, tiny_segmenter
from tests.deploy.test_forms import bundle_of

UNIT = 2.0**-24  # The relative error of one rounding of a float32.
LEVELS = {
    "as written": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "fused": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
optimizations = pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)


def run_qdq(content: bytes, images: np.ndarray, names: list[str], level) -> dict[str, np.ndarray]:
    """The logits and the named values of the graph, maps (N, H, W, C)."""
    model = onnx.load_from_string(content)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    logits, *values = session.run([LOGITS, *names], {IMAGES: images})
    return {LOGITS: logits} | {
        name: value.transpose(0, 2, 3, 1) for name, value in zip(names, values, strict=True)
    }


def in_double(layer: Linear, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A layer in float64, and the most by which float32 may miss that in any order of its sums.

    A sum of n products has at most n roundings a term, scale and shift two more: the classic bound.
    """
    padding, stride, groups = layer.geometry.padding, layer.geometry.stride, layer.geometry.groups
    weights = np.asarray(layer.weights, np.float64)
    kh, kw, inputs, outputs = weights.shape
    x = np.pad(x.astype(np.float64), [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), (1, 2))[:, ::stride, ::stride]
    windows = windows.reshape(*windows.shape[:3], groups, inputs, kh, kw)
    weights = weights.reshape(kh, kw, inputs, groups, outputs // groups)
    take = functools.partial(np.einsum, "nhwgiab,abigo->nhwgo", optimize=True)
    shape = (*windows.shape[:3], outputs)
    y, size = take(windows, weights).reshape(shape), take(abs(windows), abs(weights)).reshape(shape)
    scale, shift = (np.asarray(values, np.float64) for values in (layer.scale, layer.shift))
    bound = (kh * kw * inputs + 3) * UNIT * (size * abs(scale) + abs(shift))
    return y * scale + shift, bound


NETS = {
    "4 bits, D = 4": (short_net, {}, (2, 32, 48, 3)),
    "8 bits, D = 7, norm": (short_net, {"bits": 8, "levels": 7, "rectify": "norm"}, (2, 32, 32, 3)),
    "frames, D = 3": (short_net, {"levels": 3, "timesteps": 2, "in_channels": 2}, (2, 2, 32, 32, 2)),
    "LIF, hard reset": (
        short_net,
        {"neuron": "lif", "levels": 1, "timesteps": 3, "reset": "hard", "attention_scale": 0.7},
        (1, 3, 32, 32, 3),
    ),
    "float weights": (
        short_net,
        {"bits_rules": (BitsRule(pattern="downsample2/conv", bits=32),)},
        (1, 32, 32, 3),
    ),
    "segmenter": (tiny_segmenter, {"neuron_input_gain": 0.5}, (1, 32, 32, 3)),
}


@optimizations
@pytest.mark.parametrize("net", NETS)
def test_each_step_is_that_of_the_bundle(net, level, tmp_path):
    """By what comes into it in the graph: exact where sums are whole, else within what floats may miss."""
    build, fields, shape = NETS[net]
    model = build(**fields)
    program, images = fold(model, draw_variables(model)), draw_images(*shape)
    names = [step.name for step in program.steps]
    found = run_qdq(export_qdq(program, shape[-3:-1]), images, names, level)
    values = {IMAGES: images.reshape(-1, *shape[-3:])} | found
    bundle, inexact = bundle_of(program, tmp_path / "model.qsdt"), 0
    for step, record in zip(program.steps, bundle["steps"], strict=True):
        value = found[step.name]
        if isinstance(step, Linear) and (not step.spikes or step.bits == 32):
            expected, bound = in_double(step, values[step.input])
            assert np.all(abs(value - expected) <= bound), step.name
            inexact += 1
            continue
        expected = reference._run(record, values, bundle["neuron"], None)
        if isinstance(step, Pool | Bilinear):
            terms = math.prod(values[step.input].shape[1:3]) if isinstance(step, Pool) else 4
            size = np.abs(values[step.input]).max()
            assert np.all(abs(value - expected) <= (terms + 3) * UNIT * size), step.name
        else:
            assert np.array_equal(value, expected), step.name
        if isinstance(step, Fire):
            assert 0.01 < value.mean() / program.neuron.levels < 0.99, step.name
    assert 0 < inexact < len(program.layers) / 2
    [(_, last)] = program.outputs
    logits = reference.class_scores(bundle, {last: found[last]} if build is short_net else found)
    assert np.array_equal(found[LOGITS], logits)


@optimizations
@pytest.mark.parametrize("kind", ["ie_lif", "i_lif", "lif"])
def test_halves_are_rounded_up_as_a_neuron_does(kind, level):
    """Potentials on the threshold of each count and one float to both sides, through QuantizeLinear."""
    neuron = make_neuron(kind, levels=1 if kind == "lif" else 5)
    layer = Linear(
        name="layer",
        input=IMAGES,
        spikes=False,
        geometry=ConvGeometry(),
        bits=8,
        weights=np.ones((1, 1, 1, 1), np.int8),
        scale=np.ones(1, np.float32),
        shift=np.zeros(1, np.float32),
    )
    steps = (
        layer,
        Fire(name="neuron", input="layer"),
        layer.replace(name="last", input="neuron", spikes=True),
    )
    program = Program(steps=steps, neuron=neuron, outputs=((LOGITS, "last"),))
    middle = np.float32((np.arange(-2, 300) + neuron.threshold) / neuron.scale)
    images = np.stack([np.nextafter(middle, -np.inf), middle, np.nextafter(middle, np.inf)], -1).reshape(
        1, -1
    )
    images = np.resize(images, (1, 32, 32, 1)).astype(np.float32)
    found = run_qdq(export_qdq(program, (32, 32)), images, ["neuron", "neuron:counts"], level)
    fields = {name: getattr(neuron, name) for name in ("levels", "scale", "threshold", "timesteps", "decay")}
    expected = reference._fire(images, reset=neuron.reset, **fields)
    assert np.array_equal(found["neuron"], expected) and np.array_equal(found["neuron:counts"], expected)
    assert found["neuron:counts"].dtype == np.uint8 and np.ptp(expected) == neuron.levels


def test_what_is_in_the_graph():
    """Integer weights by the names of their layers, pairs of equal scales, the shape of every value."""
    model = tiny_net()
    program = fold(model, draw_variables(model))
    read = onnx.load_from_string(export_qdq(program, (32, 48), metadata={"classes": "[0, 1]"}))
    onnx.checker.check_model(read, full_check=True)
    assert {entry.key: entry.value for entry in read.metadata_props} == {"classes": "[0, 1]"}
    assert [entry.version for entry in read.opset_import] == [13]
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in read.graph.initializer}
    made = {node.output[0]: node for node in read.graph.node}
    for layer in program.layers:
        weights = stored[f"{layer.name}:weights"]
        assert weights.dtype == np.int8 and np.array_equal(weights.transpose(2, 3, 1, 0), layer.weights)
        conv = made[made[made[layer.name].input[0]].input[0]]
        pair = made[conv.input[1]]
        assert (conv.op_type, pair.op_type, pair.input[0]) == (
            "Conv",
            "DequantizeLinear",
            f"{layer.name}:weights",
        )
        if layer.spikes:
            assert conv.input[0] == layer.input
    for step in program.steps:
        if isinstance(step, Fire):
            back = made[step.name]
            counts = made[back.input[0]]
            there = made[counts.input[0]]
            kinds = [node.op_type for node in (there, counts, back)]
            assert kinds == ["QuantizeLinear", "Clip", "DequantizeLinear"]
            assert list(there.input[1:]) == list(back.input[1:]) and stored[back.input[1]] == 1
            assert [stored[name] for name in counts.input[1:]] == [0, program.neuron.levels]
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in read.graph.value_info
    }
    known = {name for name in made if name != LOGITS}
    assert shapes.keys() >= known and all(min(shapes[name][1:], default=1) > 0 for name in known)


def test_batches_of_any_size_and_the_same_file_each_time():
    model = tiny_net()
    program = fold(model, draw_variables(model))
    content, images = export_qdq(program, (32, 48)), draw_images(3, 32, 48, 3)
    assert export_qdq(program, (32, 48)) == content
    session = onnxruntime.InferenceSession(content)
    (together,) = session.run([LOGITS], {IMAGES: images})
    assert together.shape == (3, 10) and session.run([LOGITS], {IMAGES: images[1:2]})[0].shape == (1, 10)
