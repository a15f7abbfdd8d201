"""Ranges of what a graph multiplies and adds, observed on samples."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.qdq import Graph
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.core.artifacts import OnnxModel, Samples
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.stage import Workspace
from trtbuild.core.tensor_file import write_batches
from trtbuild.graph import document
from trtbuild.graph.ranges import operands, write_probe
from trtbuild.stages.observe import observe_ranges

DIMS = [2, 6, 16]


def block(dtype=np.float32):
    """q, k and v, an attention with a mask, an output projection and a residual connection."""
    graph = Graph(dtype)
    q, k, v = (graph.linear(f"attn.{name}", "x", 16, 16, "float") for name in "qkv")
    context = graph.attention("attn", q, k, v, None)
    summed = graph.op("ReduceMax", ["x"], "mask/ReduceMax", keepdims=1)
    masked = graph.op("Add", [context, summed], "mask/Add")
    return graph, graph.op("Add", [graph.linear("attn.out", masked, 16, 16, "float"), "x"], "attn.out/Add_1")


@pytest.fixture
def observed(tmp_path):
    """Observe the ranges of a saved model on batches."""

    def observe(graph, output, batches, dims=DIMS):
        model, calibration, work = OnnxModel(tmp_path / "model"), Samples(tmp_path / "samples"), tmp_path / "work"
        graph.save(model.main, output, dims)
        for folder in (calibration.path, work):
            folder.mkdir()
        write_batches(calibration.main, batches)
        return observe_ranges(model, calibration, OnnxRuntime(), Workspace(work)).amax

    return observe


def tensors(path, names, x, folder):
    """Values inside a graph, by name."""
    proto = onnx.load(path)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "x")
    folder.mkdir(exist_ok=True)
    onnx.save(proto, OnnxModel(folder).main)
    return {**next(iter(OnnxRuntime().interpret(OnnxModel(folder), [{"x": x}]))), "x": x}


def test_the_greatest_magnitude_over_all_batches(observed, tmp_path):
    graph, output = block()
    batches = [{"x": scale * graph.normal(*DIMS)} for scale in (1.0, 5.0, 2.0)]
    amax = observed(graph, output, batches)
    read = {
        "attn/MatMul:0": "attn.q/Add:0",
        "attn/MatMul:1": "attn/Transpose:0",
        "attn/MatMul_1:0": "attn/Softmax:0",
        "attn/MatMul_1:1": "attn.v/Add:0",
        "attn.out/Add_1:0": "attn.out/Add:0",
        "attn.out/Add_1:1": "x",
    }
    assert amax.keys() == read.keys()
    path = tmp_path / "model" / "model.onnx"
    each = [tensors(path, read.values(), batch["x"], tmp_path / "all") for batch in batches]
    for key, name in read.items():
        assert amax[key] == pytest.approx(max(np.abs(found[name]).max() for found in each), rel=1e-6)


def test_16_bits(observed):
    graph, output = block(np.float16)
    amax = observed(graph, output, [{"x": graph.normal(*DIMS).astype(np.float16)}])
    assert 0 < amax["attn/MatMul_1:0"] <= 1


def test_constants_biases_and_masks_are_no_operands(tmp_path):
    graph, output = block()
    path = graph.save(tmp_path / "model.onnx", output, DIMS)
    nodes = {entry.key.rpartition(":")[0] for entry in operands(document.load(path).graph)}
    assert nodes == {"attn/MatMul", "attn/MatMul_1", "attn.out/Add_1"}


def test_integers_are_no_operands(tmp_path):
    graph = Graph()
    length = graph.op("Shape", ["x"], "a/Shape")
    output = graph.op("Cast", [graph.op("Add", [length, length], "b/Add")], "c/Cast", to=1)
    assert not operands(document.load(graph.save(tmp_path / "model.onnx", output, DIMS)).graph)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_names_the_node(observed, bad):
    graph, output = block()
    x = graph.normal(*DIMS)
    x[1, 2, 3] = bad
    with pytest.raises(ModelError, match=r"node 'attn/MatMul' reads NaN or infinity as input 0 on calibration batch 1"):
        observed(graph, output, [{"x": graph.normal(*DIMS)}, {"x": x}])


def test_no_samples(observed):
    graph, output = block()
    with pytest.raises(DataError, match="calibration samples"):
        observed(graph, output, [])


def test_a_graph_without_such_operands_runs_nothing(observed):
    graph = Graph()
    assert observed(graph, graph.linear("fc", "x", 16, 16, "float"), [{"x": graph.normal(*DIMS)}]) == {}


def test_weights_in_a_data_file_are_linked(tmp_path):
    graph, output = block()
    source = graph.save(tmp_path / "plain.onnx", output, DIMS)
    model, target = OnnxModel(tmp_path / "model"), OnnxModel(tmp_path / "probe")
    for folder in (model.path, target.path):
        folder.mkdir()
    onnx.save(
        onnx.load(source), model.main, save_as_external_data=True, location="model.onnx.data", size_threshold=64,
        convert_attribute=False,
    )  # fmt: skip
    probes = write_probe(model, target)
    assert (target.path / "model.onnx.data").samefile(model.path / "model.onnx.data")
    assert target.main.stat().st_size < model.size_bytes
    found = next(iter(OnnxRuntime().interpret(target, [{"x": graph.normal(*DIMS)}])))
    assert found.keys() == {probe.output for probe in probes}
