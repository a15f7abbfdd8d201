"""What is read from the graph before and after a build: products, memory, the form that is parsed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtbuild.backends.tensorrt import lowering, memory, parsing
from trtbuild.backends.tensorrt.memory import Estimate
from trtbuild.backends.tensorrt.nodes import nodes_of
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.dialects import TENSORRT_8, TENSORRT_10, TENSORRT_11
from trtbuild.core.errors import ModelError
from trtbuild.core.tensors import Shapes
from trtbuild.graph import document

SHAPES = Shapes(
    inputs={"x": {"dtype": "float32", "dims": ["batch", 4, 8]}}, axes={"batch": {"min": 1, "opt": 2, "max": 10}}
)


def graph(opset: int = 17) -> onnx.ModelProto:
    """x -> quantized product -> attention with itself -> y."""
    constants = {
        "w": np.ones((8, 8), np.float32),
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "other": np.ones((8, 8), np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"], name="a/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], name="a/DequantizeLinear"),
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["wq"], name="a/QuantizeLinear_weight"),
        helper.make_node("DequantizeLinear", ["wq", "scale", "zero"], ["wd"], name="a/DequantizeLinear_weight"),
        helper.make_node("MatMul", ["xd", "wd"], ["h"], name="a/MatMul"),
        helper.make_node("Transpose", ["h"], ["k"], name="s/Transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "k"], ["scores"], name="s/MatMul"),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"], name="s/Mul"),
        helper.make_node("Softmax", ["scaled"], ["p"], name="s/Softmax", axis=-1),
        helper.make_node("QuantizeLinear", ["p", "scale", "zero"], ["pq"], name="s/QuantizeLinear_softmax"),
        helper.make_node("DequantizeLinear", ["pq", "scale", "zero"], ["pd"], name="s/DequantizeLinear_softmax"),
        helper.make_node("MatMul", ["pd", "h"], ["context"], name="s/MatMul_1"),
        helper.make_node("MatMul", ["context", "other"], ["y"], name="out/MatMul"),
    ]
    floats = TensorProto.FLOAT
    shapes = {name: ["b", 4, 8] for name in ("xd", "h", "context")} | {
        name: ["b", 4, 4] for name in ("scores", "scaled", "p", "pd")
    }
    codes = {"xq": ["b", 4, 8], "pq": ["b", 4, 4], "wq": [8, 8]}
    values = [helper.make_tensor_value_info(name, floats, shape) for name, shape in shapes.items()]
    values += [helper.make_tensor_value_info(name, TensorProto.INT8, shape) for name, shape in codes.items()]
    values += [
        helper.make_tensor_value_info("wd", floats, [8, 8]),
        helper.make_tensor_value_info("k", floats, ["b", 8, 4]),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", floats, ["b", 4, 8])],
        [helper.make_tensor_value_info("y", floats, ["b", 4, 8])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        value_info=values,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_products_are_found_through_quantization() -> None:
    nodes = nodes_of(ir.from_proto(graph()).graph)
    assert nodes.weights == ["a/MatMul", "out/MatMul"]
    assert nodes.attention == {"s/Softmax": ("s/MatMul", "s/MatMul_1")}
    assert nodes.tables == []


def test_only_tables_that_are_quantized_are_named() -> None:
    table = np.zeros((4, 2), np.int8)
    made = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["codes", "scale"], ["words"], name="DequantizeLinear"),
            helper.make_node("Gather", ["words", "i"], ["y"], name="words/Gather"),
            helper.make_node("Gather", ["plain", "i"], ["z"], name="plain/Gather"),
        ],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 2]) for name in ("y", "z")],
        [
            numpy_helper.from_array(table, "codes"),
            numpy_helper.from_array(np.float32(1), "scale"),
            numpy_helper.from_array(table.astype(np.float32), "plain"),
        ],
    )
    assert nodes_of(ir.from_proto(helper.make_model(made)).graph).tables == ["words/Gather"]


def test_the_estimate_counts_weights_and_what_is_alive_at_once() -> None:
    need = memory.estimate(ir.from_proto(graph()), SHAPES)
    assert need.weights_bytes == 2 * 8 * 8 * 4 + 4 + 1
    # At the first product of attention: x, h, its transpose and the scores, 10 rows of each; x is never let go.
    row = 4 * 8 * 4
    assert need.activations_bytes >= 10 * (3 * row + 4 * 4 * 4)
    assert need.activations_bytes <= 10 * (5 * row + 4 * 4 * 4)
    assert need.unknown == 0


def test_only_weights_refuse_a_build() -> None:
    memory.check(Estimate(10, 1000, 0), 10, streams_weights=False)
    memory.check(Estimate(11, 1000, 0), 10, streams_weights=True)
    with pytest.raises(ModelError, match=r"the weights take 20\.0 GB, and the GPU has 10\.0 GB free"):
        memory.check(Estimate(20 * 10**9, 0, 0), 10**10, streams_weights=False)


def saved(folder, opset: int) -> OnnxModel:
    folder.mkdir()
    onnx.save(graph(opset), folder / "model.onnx")
    return OnnxModel(folder)


def test_a_graph_that_the_target_reads_stays_as_it_is(tmp_path) -> None:
    model = saved(tmp_path / "model", 21)
    for dialect in (TENSORRT_10, TENSORRT_11):
        read = lowering.lowered(model, document.load(model.main), dialect, tmp_path / "scratch")
        assert read == model
        lowering.discard(read, tmp_path / "scratch")
    assert model.main.exists()


def test_tensorrt_8_reads_opset_17_and_the_scratch_is_removed(tmp_path) -> None:
    model = saved(tmp_path / "model", 18)
    loaded = document.load(model.main)
    read = lowering.lowered(model, loaded, TENSORRT_8, tmp_path / "scratch")
    assert document.load(read.main).opset_imports[""] == 17
    assert nodes_of(loaded.graph).weights == ["a/MatMul", "out/MatMul"]
    lowering.discard(read, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


def test_an_opset_that_the_target_does_not_read_is_refused_before_it_is_parsed(tmp_path) -> None:
    model = saved(tmp_path / "model", 21)
    loaded = document.load(model.main)
    loaded.opset_imports[""] = 26
    with pytest.raises(ModelError, match="TensorRT 11 reads opsets up to 25, and the graph has 26"):
        lowering.lowered(model, loaded, TENSORRT_11, tmp_path / "scratch")


def test_a_refused_node_is_told_with_module_and_operator() -> None:
    told = parsing.described("encoder.0/Gelu_1", "Gelu", "Assertion failed:\n  no importer")
    assert told == "encoder.0: node 'encoder.0/Gelu_1', operator Gelu: Assertion failed: no importer"
    assert parsing.described("Gelu_1", "Gelu", "no") == "the graph: node 'Gelu_1', operator Gelu: no"
    assert parsing.described("", "", "file is damaged") == "file is damaged"
    message = parsing.refusal("8.6.0", [f"problem {number}" for number in range(7)])
    assert "problem 4" in message
    assert "problem 5" not in message
    assert message.endswith("and 2 more")
    assert "Gelu" in parsing.remedy(["Gelu"])
