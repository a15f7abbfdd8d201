"""Rewrites for a processor's kernels compute what the graph computed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

from tests.qdq import E4M3, Graph
from trtbuild.core.artifacts import OnnxModel
from trtbuild.graph import document
from trtbuild.graph.conv_in_integers import convolve_codes
from trtbuild.graph.float_kernels import compute_in_float32
from trtbuild.graph.fp8_in_floats import round_activations
from trtbuild.graph.gemm_as_matmul import split_quantized
from trtbuild.graph.relu_in_codes import clip_codes
from trtbuild.graph.unsigned import use_unsigned_activations


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options).run(None, {"x": x})[0]


def rewritten(path, folder, *rewrites):
    """The rewritten model's file, how often each rewrite changed it, and its operators."""
    model = document.load(path)
    counts = [rewrite(model) for rewrite in rewrites]
    folder.mkdir()
    document.save(model, OnnxModel(folder))
    return folder / "model.onnx", counts, Counter(node.op_type for node in model.graph)


def e4m3_points():
    """Every number of E4M3, every tie between two, its neighbours, and random numbers of every size."""
    numbers = np.arange(127, dtype=np.uint8).view(E4M3).astype(np.float32)
    ties = (numbers[1:] + numbers[:-1]) / 2
    above, below = np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(0))
    random = np.exp(np.random.default_rng(0).uniform(-14, 7, 20000)).astype(np.float32)
    points = np.concatenate([numbers, ties, above, below, random, [449, 1e6, 1e30]]).astype(np.float32)
    return np.concatenate([points, -points])


@pytest.mark.parametrize("scale", [1.0, 0.013])
def test_fp8_in_floats_is_fp8_to_the_last_bit(scale, tmp_path):
    graph, x = Graph(), e4m3_points() * np.float32(scale)
    output = graph.op("Identity", [graph.rounded("x", "fc", "fp8", 448 * scale)], "out")
    path = graph.save(tmp_path / "model.onnx", output, [len(x)])
    changed, counts, operators = rewritten(path, tmp_path / "changed", round_activations)
    assert counts == [1]
    assert not operators["QuantizeLinear"] + operators["DequantizeLinear"]
    assert np.array_equal(run(changed, x), run(path, x))
    stored = np.float32(np.asarray(448 * scale / 448, np.float32))
    assert np.array_equal(run(path, x), np.clip(x / stored, -448, 448).astype(E4M3).astype(np.float32) * stored)


def test_fp8_in_floats_of_16_bits(tmp_path):
    graph = Graph(np.float16)
    x = e4m3_points()
    x = x[np.abs(x) < 6e4].astype(np.float16)
    path = graph.save(
        tmp_path / "model.onnx", graph.op("Identity", [graph.rounded("x", "fc", "fp8", 448)], "out"), [len(x)]
    )
    changed, counts, _ = rewritten(path, tmp_path / "changed", round_activations)
    assert counts == [1]
    assert np.array_equal(run(changed, x), run(path, x))


def test_readers_of_one_fp8_tensor_share_its_rounding(tmp_path):
    graph = Graph()
    first = graph.rounded("x", "a", "fp8", 4.0)
    second = graph.op("DequantizeLinear", ["a/QuantizeLinear:0", "a.scale", "a.zero"], "b/DequantizeLinear")
    path = graph.save(tmp_path / "model.onnx", graph.op("Add", [first, second], "sum"), [64])
    changed, counts, operators = rewritten(path, tmp_path / "changed", round_activations)
    x = graph.normal(64)
    assert counts == [1]
    assert operators["Where"] == 1
    assert np.array_equal(run(changed, x), run(path, x))


def test_int8_and_fp8_weights_are_no_fp8_activations(tmp_path):
    graph = Graph()
    value = graph.linear("b", graph.linear("a", "x", 32, 32, "int8"), 32, 32, "fp8_block")
    _, counts, _ = rewritten(
        graph.save(tmp_path / "model.onnx", value, [2, 32]), tmp_path / "changed", round_activations
    )
    assert counts == [0]


@pytest.mark.parametrize("layer", ["int8", "w8a16", "fp8", "fp8_pc_pt", "int4"])
def test_a_split_gemm_computes_the_same(layer, tmp_path):
    graph = Graph()
    path = graph.save(tmp_path / "model.onnx", graph.linear("fc", "x", 64, 32, layer, "Gemm"), [8, 64])
    changed, counts, operators = rewritten(path, tmp_path / "changed", split_quantized)
    assert counts == [1]
    assert (operators["Gemm"], operators["MatMul"]) == (0, 1)
    x = graph.normal(8, 64)
    np.testing.assert_allclose(run(changed, x), run(path, x), atol=1e-5)


def test_a_gemm_that_is_more_than_a_linear_layer_stays(tmp_path):
    graph = Graph()
    output = graph.linear("fc", "x", 64, 32, "int8", "Gemm")
    graph.nodes[-1].attribute.append(helper.make_attribute("alpha", 0.5))
    _, counts, _ = rewritten(graph.save(tmp_path / "m.onnx", output, [8, 64]), tmp_path / "changed", split_quantized)
    assert counts == [0]


@pytest.mark.parametrize("signs", [(), (use_unsigned_activations,)], ids=["signed", "unsigned"])
@pytest.mark.parametrize("operator", ["Relu", "Clip"])
def test_a_relu_of_codes_is_the_relu_to_the_last_bit(operator, signs, tmp_path):
    graph = Graph()
    value = graph.convolution("a", "x", 8, "int8")
    bounds = [graph.constant("least", np.float32(0)), graph.constant("greatest", np.float32(1.7))]
    value = graph.op(operator, [value, *(bounds if operator == "Clip" else [])], f"a/{operator}")
    path = graph.save(tmp_path / "model.onnx", graph.convolution("b", value, 8, "int8"), [2, 8, 6, 6])
    changed, counts, operators = rewritten(path, tmp_path / "changed", *signs, clip_codes)
    assert counts[-1] == 1
    assert operators["Relu"] == 0
    x = 3 * graph.normal(2, 8, 6, 6)
    assert np.array_equal(run(changed, x), run(path, x))


def test_a_relu_that_others_read_stays(tmp_path):
    graph = Graph()
    value = graph.op("Relu", [graph.convolution("a", "x", 8, "int8")], "a/Relu")
    output = graph.op("Add", [graph.convolution("b", value, 8, "int8"), value], "b/Add")
    path = graph.save(tmp_path / "model.onnx", output, [2, 8, 6, 6])
    assert rewritten(path, tmp_path / "changed", clip_codes)[1] == [0]


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_before_a_residual_addition_is_multiplied_in_integers(bias, tmp_path):
    graph = Graph()
    value = graph.op("Relu", [graph.convolution("a", "x", 8, "int8")], "a/Relu")
    branch = graph.convolution("b", value, 8, "int8")
    if not bias:
        del graph.nodes[-1].input[2]
    path = graph.save(tmp_path / "model.onnx", graph.op("Add", [branch, value], "b/Add"), [2, 8, 6, 6])
    rewrites = (use_unsigned_activations, clip_codes, convolve_codes)
    changed, counts, operators = rewritten(path, tmp_path / "changed", *rewrites)
    assert counts == [2, 0, 2]  # the first one's answer is quantized, and read as it is besides
    assert operators["Conv"] == 0
    x = 3 * graph.normal(2, 8, 6, 6)
    assert np.allclose(run(changed, x), run(path, x), rtol=0, atol=1e-5)


def test_a_convolution_that_is_quantized_behind_stays(tmp_path):
    graph = Graph()
    value = graph.convolution("b", graph.convolution("a", "x", 8, "int8"), 8, "int8")
    path = graph.save(tmp_path / "model.onnx", value, [2, 8, 6, 6])
    _, counts, operators = rewritten(path, tmp_path / "changed", use_unsigned_activations, convolve_codes)
    assert counts == [2, 1]  # the last one's answer leaves the graph
    assert operators["Conv"] == operators["ConvInteger"] == 1


def test_convolutions_of_weights_alone_and_of_fp8_stay_in_floats(tmp_path):
    for kind, signs in (("fp8", ()), ("int8", ())):  # and signed codes, whose integer kernel is slow
        graph = Graph()
        path = graph.save(tmp_path / f"{kind}.onnx", graph.convolution("a", "x", 8, kind), [2, 8, 6, 6])
        assert rewritten(path, tmp_path / kind, *signs, convolve_codes)[1] == [0]


def test_attention_stays_signed(tmp_path):
    graph = Graph()
    value = graph.linear("fc", "x", 32, 32, "int8")
    path = graph.save(tmp_path / "model.onnx", graph.attention("attn", value, value, value, "int8"), [2, 4, 32])
    model = document.load(path)
    assert use_unsigned_activations(model) == 1
    stored = {node.name: node.outputs[0].dtype for node in model.graph if node.op_type == "QuantizeLinear"}
    assert stored["fc/QuantizeLinear"] == ir.DataType.UINT8
    assert stored["attn/query/QuantizeLinear"] == ir.DataType.INT8


@pytest.mark.parametrize(("dtype", "count"), [(np.float16, 2), (np.float32, 0)])
def test_what_has_no_16_bit_kernel_runs_in_float32(dtype, count, tmp_path):
    graph = Graph(dtype)
    output = graph.op("Gelu", [graph.op("Softmax", ["x"], "a/Softmax", axis=1)], "b/Gelu", approximate="tanh")
    path = graph.save(tmp_path / "model.onnx", output, [4, 6, 5])
    changed, counts, operators = rewritten(path, tmp_path / "changed", compute_in_float32)
    assert counts == [count]
    assert operators["Cast"] == 2 * count
    x = graph.normal(4, 6, 5).astype(dtype)
    found = run(changed, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(np.float32), run(path, x).astype(np.float32), atol=2e-3)
