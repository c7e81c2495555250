"""The ONNX graph: what is stored, what ONNX Runtime makes of it. `test_forms` compares its numbers."""

import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from qsdt_jax.core.exact import attention_sum
from qsdt_jax.core.neurons import make_neuron
from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.graphs.onnx_integer import export_onnx
from qsdt_jax.deploy.program import Attend
from qsdt_jax.errors import UserError
from tests.deploy.nets import draw_images, draw_variables, tiny_net


@pytest.fixture(scope="module")
def program():
    model = tiny_net()
    return fold(model, draw_variables(model))


def test_weights_are_stored_as_int4_and_all_else_is_small(program):
    model = onnx.load_from_string(export_onnx(program, (32, 48), metadata={"classes": "[0, 1]"}))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in program.layers:
        tensor = stored.pop(layer.name)
        assert tensor.data_type == onnx.TensorProto.INT4
        assert len(tensor.raw_data) == -(-layer.weights.size // 2)
        integers = np.sort(onnx.numpy_helper.to_array(tensor).astype(np.int8), axis=None)
        assert np.array_equal(integers, np.sort(layer.weights, axis=None))
    vectors = sum(layer.scale.nbytes + layer.shift.nbytes for layer in program.layers)
    assert sum(len(tensor.raw_data) for tensor in stored.values()) < vectors + 5000
    assert {entry.key: entry.value for entry in model.metadata_props} == {"classes": "[0, 1]"}


def test_weights_of_more_than_4_bits_are_int8():
    model = tiny_net(bits=5)
    graph = onnx.load_from_string(export_onnx(fold(model, draw_variables(model)), (32, 32))).graph
    kinds = Counter(tensor.data_type for tensor in graph.initializer)
    assert onnx.TensorProto.INT8 in kinds and onnx.TensorProto.INT4 not in kinds


def test_batches_of_any_size_and_the_same_file_each_time(program):
    content = export_onnx(program, (32, 48))
    assert export_onnx(program, (32, 48)) == content
    session, images = onnxruntime.InferenceSession(content), draw_images(5, 32, 48, 3)
    (together,) = session.run(["logits"], {"images": images})
    assert np.array_equal(session.run(["logits"], {"images": images[3:4]})[0][0], together[3])


def test_onnx_runtime_joins_no_scale_or_shift_with_a_product(program, tmp_path):
    """Equality on this machine could be luck: a fused operator may round once or twice."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(export_onnx(program, (32, 32)), options)
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    # Of its own operators it may take those of another layout.
    assert {node.domain for node in graph.node} <= {"", "com.microsoft.nchwc"}
    kinds = {node.op_type for node in graph.node}
    assert "MatMulInteger" in kinds and "Gemm" not in kinds
    whole = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv":  # No scale went into its weights, no sum into its accumulation.
            assert len(node.input) == 2 and np.all(whole[node.input[1]] % 1 == 0)


def attention_of(program, size):
    """The model, with the counts that attend as outputs, and the last attention's step, product and type."""
    attends = [step for step in program.steps if isinstance(step, Attend)]
    also = [name for step in attends for name in (step.q, step.k, step.v)]
    model = onnx.load_from_string(export_onnx(program, size, also=also))
    made = {node.output[0]: node for node in model.graph.node}
    for node in reversed(model.graph.node):
        if node.op_type == "MatMul" and made[node.input[1]].op_type == "MatMul":
            return model, attends[-1], node, made[node.input[0]].attribute[0].i
    raise AssertionError("no product of products")


def test_attention_is_in_double_where_float_does_not_hold_its_sums(program):
    """D = 8 and, in the last stage, 6 channels a head: 5461 tokens stay below 2^24."""
    program = program.replace(neuron=make_neuron(levels=8))
    for size, kind in (((16 * 43, 16 * 127), "FLOAT"), ((16 * 2, 16 * 2731), "DOUBLE")):
        tokens = size[0] * size[1] // 256
        assert (attention_sum(tokens, 6, 8) > 2**24) == (kind == "DOUBLE") and abs(tokens - 5461) <= 1
        assert attention_of(program, size)[-1] == onnx.TensorProto.DataType.Value(kind)


def test_sums_of_attention_beyond_float_are_exact(program):
    """D = 127, and images so bright that many neurons fire at their most."""
    program = program.replace(neuron=make_neuron(levels=127))
    model, step, product, _ = attention_of(program, (96, 96))
    model.graph.output.append(onnx.ValueInfoProto(name=product.output[0]))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [step.q, step.k, step.v, product.output[0]]
    *counts, sums = session.run(names, {"images": 30 * draw_images(1, 96, 96, 3)})
    q, k, v = (c.reshape(36, step.heads, -1).swapaxes(0, 1).astype(np.int64) for c in counts)
    expected = q @ (k.swapaxes(-1, -2) @ v)
    assert expected.max() > 2**24 and np.any(expected[expected > 2**24] % 2)
    assert np.array_equal(sums[0], expected)


def test_without_the_package_onnx_it_says_so(program, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="ONNX export needs the package onnx; pip install onnx"):
        export_onnx(program, (32, 32))
