"""Every format in an engine of ONNX Runtime: it computes what the graph says, stays small, and says what runs."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from tests.qdq import LAYERS, Graph
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.roles import Precisions
from trtbuild.core.tensors import Shapes, TensorSpec
from trtbuild.stages.build import BuildOptions

RAN = {
    "float": "float32",
    "int8": "int8",
    "w8a16": "int8 weights",
    "fp8": "fp8 in float32",
    "fp8_pc_pt": "fp8 in float32",
    "fp8_block": "fp8 weights",
    "int4": "int4 weights",
    "w4a8": "int4 weights, fp8 activations",
}


class Built(NamedTuple):
    error: float
    """Greatest absolute error against the graph as it is written, relative to its greatest output."""
    precisions: Precisions
    growth: float
    """Bytes of the engine over bytes of the graph."""
    nodes: list[onnx.NodeProto]

    @property
    def operators(self):
        return Counter(node.op_type for node in self.nodes)


def built(graph, output, dims, folder, tactics="default") -> Built:
    model, engine, backend = OnnxModel(folder / "model"), Engine(folder / "engine"), OnnxRuntime()
    engine.path.mkdir(parents=True)
    graph.save(model.main, output, dims)
    dtype = np.dtype(graph.dtype)
    shapes = Shapes(inputs={"x": TensorSpec(dtype=dtype.name, dims=list(dims))})
    backend.compile(model, shapes, BuildOptions(threads=1, tactics=tactics), engine)
    x = np.random.default_rng(1).standard_normal(dims).astype(dtype)
    (wanted,) = next(iter(backend.interpret(model, [{"x": x}]))).values()
    session = backend.open(engine, 1)
    (got,) = session.infer({"x": x}).values()
    session.close()
    error = np.abs(got.astype(np.float32) - wanted.astype(np.float32)).max() / np.abs(wanted).max()
    nodes = list(onnx.load(engine.path / "engine.onnx").graph.node)
    return Built(float(error), backend.precisions(engine), engine.size_bytes / model.size_bytes, nodes)


@pytest.mark.parametrize("tactics", ["default", "measure"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_linear_in_each_format(layer, tactics, tmp_path):
    graph = Graph()
    result = built(graph, graph.linear("fc", "x", 128, 384, layer), (2, 16, 128), tmp_path, tactics)
    assert result.error < 2e-6
    assert result.precisions.layers == {"fc/MatMul": RAN[layer]}
    assert result.growth < 1.15  # no weight became a float again


@pytest.mark.parametrize("layer", LAYERS)
def test_a_gemm_with_a_transposed_weight_in_each_format(layer, tmp_path):
    graph = Graph()
    result = built(graph, graph.linear("fc", "x", 128, 384, layer, "Gemm"), (16, 128), tmp_path)
    assert result.error < 2e-6
    assert list(result.precisions.layers.values()) == [RAN[layer]]
    assert {name.rpartition("/")[0] for name in result.precisions.layers} == {"fc"}
    assert result.growth < 1.15


def test_a_product_of_two_axes_keeps_its_integers(tmp_path):
    """ONNX Runtime joins MatMul and Add of matrices to a Gemm, for which it has no integer kernel."""
    graph = Graph()
    result = built(graph, graph.linear("fc", "x", 64, 32, "int8"), (16, 64), tmp_path)
    assert result.precisions.layers == {"fc/MatMul": "int8"}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_linear_of_16_bits_in_each_format(layer, tmp_path):
    graph = Graph(np.float16)
    result = built(graph, graph.linear("fc", "x", 128, 384, layer), (2, 16, 128), tmp_path)
    assert result.error < 3e-3
    # The CPU has no integer product that gives 16-bit floats: that is not what the format asks for, and it says so.
    assert result.precisions.layers == {"fc/MatMul": {"int8": "int8 in float32"}.get(layer, RAN[layer])}
    assert result.growth < 1.4 or layer == "float"


@pytest.mark.parametrize(("kind", "ran"), [("int8", "int8"), ("fp8", "fp8 in float32")])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_attention(kind, ran, dtype, tmp_path):
    graph = Graph(dtype)
    result = built(graph, graph.attention("attn", "x", "x", "x", kind), (4, 16, 32), tmp_path, "measure")
    assert result.precisions == Precisions({}, {"attn/Softmax": ran})
    # A softmax that differs in its last bit may round to the neighbour: of 127 codes, or by one 16th in FP8.
    assert result.error < (0.01 if kind == "int8" else 0.04)


def test_attention_of_a_graph_with_other_names(tmp_path):
    graph = Graph()
    output = graph.attention("attn", "x", "x", "x", "fp8")
    for number, node in enumerate(graph.nodes):
        node.name = f"node_{number}"
    result = built(graph, output, (4, 16, 32), tmp_path)
    assert list(result.precisions.attention.values()) == ["fp8 in float32"]


def test_attention_in_high_precision_is_no_quantized_attention(tmp_path):
    graph = Graph()
    result = built(graph, graph.attention("attn", "x", "x", "x", None), (4, 16, 32), tmp_path)
    assert result.precisions.attention["attn/Softmax"].startswith("float")


def test_one_graph_of_all_formats(tmp_path):
    """FP8 pairs must not be taken for INT8 ones, nor keep INT8 products out of integers."""
    graph, value = Graph(), "x"
    for layer in LAYERS:
        value = graph.linear(layer, value, 64, 64, layer)
    result = built(graph, graph.attention("attn", value, value, value, "fp8"), (2, 16, 64), tmp_path, "measure")
    assert result.precisions.layers == {f"{layer}/MatMul": RAN[layer] for layer in LAYERS}
    assert result.precisions.attention == {"attn/Softmax": "fp8 in float32"}
    assert result.error < 0.05


def test_convolutions_run_in_integers_where_codes_follow(tmp_path):
    graph, value = Graph(), "x"
    for module in ("a", "b", "c"):
        value = graph.op("Relu", [graph.convolution(module, value, 16, "int8")], f"{module}/Relu")
    result = built(graph, value, (1, 16, 12, 12), tmp_path, "measure")
    assert result.precisions.layers == {"a/Conv": "int8", "b/Conv": "int8", "c/Conv": "int8"}
    assert (result.operators["QLinearConv"], result.operators["ConvInteger"]) == (2, 1)
    assert result.error < 0.02


def test_fp8_convolutions_keep_their_relu(tmp_path):
    """Taken for INT8 codes, FP8 zero would be the least code, and the ReLU before it superfluous."""
    graph, value = Graph(), "x"
    for module in ("a", "b"):
        value = graph.op("Relu", [graph.convolution(module, value, 16, "fp8")], f"{module}/Relu")
    result = built(graph, value, (1, 16, 12, 12), tmp_path)
    assert set(result.precisions.layers.values()) == {"fp8 in float32"}
    assert result.error < 0.03


@pytest.mark.parametrize("layer", ["int4", "w8a16"])
def test_weights_alone_leave_inputs_in_float(layer, tmp_path):
    """ONNX Runtime's own default rounds the inputs of such products to INT8, which nobody asked for."""
    graph = Graph()
    result = built(graph, graph.linear("fc", "x", 128, 64, layer), (2, 16, 128), tmp_path)
    (product,) = (node for node in result.nodes if node.op_type == "MatMulNBits")
    assert {attribute.name: attribute.i for attribute in product.attribute}["accuracy_level"] == 1


def test_names_without_a_module_path(tmp_path):
    graph = Graph()
    graph.linear("fc", "x", 64, 32, "int8")
    for node in graph.nodes:
        node.name = {"fc/MatMul": "MatMul_17"}.get(node.name, node.name)
    result = built(graph, "fc/Add:0", (2, 16, 64), tmp_path)
    assert result.precisions.layers == {"MatMul_17": "int8"}
