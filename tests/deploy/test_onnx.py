"""The ONNX graph: what is stored, what ONNX Runtime makes of it. `test_forms` compares its numbers."""

import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from qsdt_jax.deploy.fold import fold
from qsdt_jax.deploy.onnx import export_onnx
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


def test_without_the_package_onnx_it_says_so(program, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="ONNX export needs the package onnx; pip install onnx"):
        export_onnx(program, (32, 32))
