"""Asked, inserted, ran: the coverage of a build names each layer's precision, and the reason where it is another."""

from __future__ import annotations

import pytest
from onnx import TensorProto

from tests.qdq import Graph
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.dialects import ONNX_RUNTIME
from trtbuild.core.formats import FORMATS
from trtbuild.core.results import Coverage, LayerCoverage
from trtbuild.core.stage import Workspace
from trtbuild.core.tensors import Shapes, TensorSpec
from trtbuild.graph import document, embeddings
from trtbuild.stages.build import BuildOptions, build, runs_in


def covered(graph, output, dims, folder, **layers):
    model = OnnxModel(folder / "model")
    graph.save(model.main, output, dims)
    asked = [LayerCoverage(module=module, format=form, inserted=True) for module, form in layers.items()]
    return coverage_of(document.load(model.main), asked, dims, folder)


def coverage_of(graph, asked, dims, folder):
    model, work = OnnxModel(folder / "quantized"), folder / "work"
    for new in (model.path, work):
        new.mkdir()
    document.save(graph, model)
    result = build(
        model,
        Coverage(layers=asked),
        Shapes(inputs={"x": TensorSpec(dtype="float32", dims=list(dims))}),
        BuildOptions(threads=1, tactics="default"),
        OnnxRuntime(),
        Workspace(work),
    )
    return result.coverage


def test_what_each_format_may_run_in():
    assert {form: runs_in(form)[0] for form in FORMATS} == {
        "int8": "int8",
        "int8_sq": "int8",
        "fp8": "fp8",
        "fp8_pc_pt": "fp8",
        "fp8_block128": "fp8 weights",
        "int4": "int4 weights",
        "int4_awq": "int4 weights",
        "int4_gptq": "int4 weights",
        "w8a16": "int8 weights",
        "w4a8_awq": "int4 weights, fp8 activations",
        "nvfp4": "fp4",
        "mxfp8": "fp8",
    }
    assert "fp8 in float32" in runs_in("fp8")
    assert "fp8 in float32" in runs_in("attention_fp8")
    assert runs_in("attention_int8") == runs_in("int8") == ("int8",)
    assert runs_in("embedding_int8") == ("int8 table",)


def test_emulated_fp8_counts_and_says_that_it_is_emulated(tmp_path):
    graph = Graph()
    value = graph.linear("fc", "x", 64, 64, "fp8")
    output = graph.attention("attn", value, value, value, "fp8")
    coverage = covered(graph, output, (2, 8, 64), tmp_path, fc="fp8", attn="attention_fp8")
    assert [(layer.ran, layer.reason) for layer in coverage.layers] == [("fp8 in float32", "")] * 2
    assert coverage.ran == 2


def test_an_attention_and_a_layer_of_one_module_are_told_apart(tmp_path):
    """nn.MultiheadAttention multiplies by its own weight under the same path as its attention."""
    graph = Graph()
    value = graph.linear("in_proj", "x", 64, 64, "int8")
    output = graph.attention("attn", value, value, value, None)
    for node in graph.nodes:
        node.name = {"in_proj/MatMul": "attn/MatMul_2"}.get(node.name, node.name)
    coverage = covered(graph, output, (2, 8, 64), tmp_path, attn="attention_int8")
    assert coverage.ran == 0
    assert coverage.layers[0].ran.startswith("float")
    assert "attention_int8 means int8" in coverage.layers[0].reason


def test_half_an_attention_is_not_a_quantized_one(tmp_path):
    graph = Graph()
    output = graph.attention("attn", "x", "x", "x", "fp8")
    context = next(node for node in graph.nodes if node.name == "attn/MatMul_1")
    context.input[1] = "x"
    coverage = covered(graph, output, (2, 8, 64), tmp_path, attn="attention_fp8")
    assert coverage.layers[0].ran == "fp8 in float32, then fp8 times float32"
    assert coverage.ran == 0


def test_two_attentions_of_one_module(tmp_path):
    """The second goes by the name of its softmax, and the first is not blamed for it."""
    graph = Graph()
    value = graph.attention("attn", "x", "x", "x", "int8")
    output = graph.attention("second", value, value, value, None)
    for node in graph.nodes:
        node.name = node.name.replace("second/Softmax", "attn/Softmax_1")
    asked = {"attn": "attention_int8", "attn/Softmax_1": "attention_int8"}
    coverage = covered(graph, output, (2, 8, 64), tmp_path, **asked)
    assert coverage.layers[0].ran == "int8"
    assert coverage.layers[1].ran.startswith("float")
    assert coverage.ran == 1


@pytest.mark.parametrize(
    ("layer", "form", "ran"),
    [("float", "int8", "float32"), ("float", "fp8", "float32"), ("w8a16", "int8", "int8 weights")],
)
def test_a_layer_that_does_not_run_as_asked_says_so(layer, form, ran, tmp_path):
    """As where a compiler folds the weight back to floats."""
    graph = Graph()
    coverage = covered(graph, graph.linear("fc", "x", 64, 64, layer), (2, 8, 64), tmp_path, fc=form)
    assert coverage.layers[0].ran == ran
    assert f"the engine runs it in {ran}" in coverage.layers[0].reason
    assert coverage.ran == 0


@pytest.mark.parametrize("gather", ["words/Gather", "Gather_7"])
def test_a_table_of_codes(gather, tmp_path):
    graph = Graph()
    graph.constant("table", graph.normal(8192, 16))
    ids = graph.op("Cast", ["x"], "ids/Cast", to=TensorProto.INT64)
    output = graph.op("Gather", ["table", ids], gather)
    path = graph.save(tmp_path / "float.onnx", output, [2, 8])
    model = document.load(path)
    layers = embeddings.insert(model.graph, {}, ONNX_RUNTIME)
    assert [layer.inserted for layer in layers] == [True]
    coverage = coverage_of(model, layers, (2, 8), tmp_path)
    assert [(layer.ran, layer.reason) for layer in coverage.layers] == [("int8 table", "")]


@pytest.mark.parametrize("layer", ["conv", "fc"])
def test_rows_of_a_table_are_no_quantized_input(layer, tmp_path):
    """Weights alone are quantized behind the table: what was gathered is INT8 as well, and nobody asked that of it."""
    graph = Graph()
    graph.constant("table", graph.normal(8192, 16))
    ids = graph.op("Cast", ["x"], "ids/Cast", to=TensorProto.INT64)
    rows = graph.op("Gather", ["table", ids], "words/Gather")
    if layer == "conv":
        rows = graph.op("Transpose", [rows], "Transpose", perm=[0, 2, 1])
        weight = graph.weight("conv", graph.normal(8, 16, 3), "int8", "channel", axis=0)
        output = graph.op("Conv", [rows, weight], "conv/Conv")
    else:
        output = graph.linear("fc", rows, 16, 32, "w8a16")
    model = document.load(graph.save(tmp_path / "float.onnx", output, [2, 8]))
    tables = embeddings.insert(model.graph, {}, ONNX_RUNTIME)
    asked = [*tables, LayerCoverage(module=layer, format="w8a16", inserted=True)]
    coverage = coverage_of(model, asked, (2, 8), tmp_path)
    assert [(found.ran, found.reason) for found in coverage.layers] == [("int8 table", ""), ("int8 weights", "")]


def test_a_layer_that_is_not_there_says_so(tmp_path):
    graph = Graph()
    coverage = covered(graph, graph.linear("fc", "x", 64, 64, "int8"), (2, 8, 64), tmp_path, gone="int8")
    assert "no node of this name" in coverage.layers[0].reason


def test_calls_of_one_module_must_all_run(tmp_path):
    graph = Graph()
    value = graph.linear("fc", "x", 64, 64, "int8")
    other = graph.constant("other", graph.normal(64, 64))
    output = graph.op("MatMul", [value, other], "fc/MatMul_1")
    coverage = covered(graph, output, (2, 8, 64), tmp_path, fc="int8")
    assert set(coverage.layers[0].ran.split(" and ")) == {"int8", "float32"}
    assert coverage.ran == 0
