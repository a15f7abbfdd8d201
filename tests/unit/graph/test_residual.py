"""Residual additions: what skips the layers is quantized, what a layer writes is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.graph.examples import make_plan, run, run_model, sample
from tests.unit.graph.reference import relative
from trtbuild.core.artifacts import OnnxModel
from trtbuild.graph import document, insertion, ranges, residual


def observed(path, x, folder):
    """The ranges as the stage observes them."""
    folder.mkdir()
    probed = OnnxModel(folder)
    probes = ranges.write_probe(OnnxModel(path.parent), probed)
    values = run(probed.main, x, [probe.output for probe in probes])
    return {probe.key: float(value) for probe, value in zip(probes, values, strict=True)}


def test_the_tensor_that_skips_a_layer_is_quantized_once(exported, tmp_path):
    path, x = exported("postnorm"), sample("postnorm")
    reached = observed(path, x, tmp_path / "probe")
    plan, plain, model = make_plan(path, x, "int8"), document.load(path), document.load(path)
    insertion.insert(plain, plan, ranges=reached)
    insertion.insert(model, plan, residual="int8", ranges=reached)
    additions = [
        node
        for node in model.graph
        if node.op_type == "Add" and any(each.op_type == "DequantizeLinear" for each in node.predecessors())
    ]
    assert len(additions) == 2
    for node in additions:
        (pair,) = [each for each in node.predecessors() if each.op_type == "DequantizeLinear"]
        skipped = pair.inputs[0].producer()
        assert skipped.inputs[0].producer().op_type == "LayerNormalization"
        index = [value.producer() for value in node.inputs].index(pair)
        assert pair.inputs[1].const_value.numpy() >= np.float32(reached[f"{node.name}:{index}"] / 127)
    count = sum(node.op_type == "QuantizeLinear" for node in model.graph)
    assert count == sum(node.op_type == "QuantizeLinear" for node in plain.graph), "the layers read the same codes"
    got, wanted = run_model(model, x, tmp_path / "a"), run_model(plain, x, tmp_path / "b")
    assert 0 < relative(got, wanted) < 0.02


def graph_of(folder, nodes, weights):
    tensors = [numpy_helper.from_array(np.eye(4, dtype=np.float32).reshape(shape), name) for name, shape in weights]
    graph = helper.make_graph(
        [helper.make_node(op, read, [f"{name}:0"], name=name) for op, read, name in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 5])],
        [helper.make_tensor_value_info(f"{nodes[-1][2]}:0", TensorProto.FLOAT, [1, 4, 5, 5])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), folder / "model.onnx")
    return document.load(folder / "model.onnx").graph


W = [(name, (4, 4, 1, 1)) for name in ("w1", "w2", "w3")]
DEEP = [("Relu", ["x"], "in/Relu"), ("Conv", ["in/Relu:0", "w1"], "a/Conv"), ("Relu", ["a/Conv:0"], "a/Relu")]
DEEP = [*DEEP, ("Conv", ["a/Relu:0", "w2"], "b/Conv")]
GRAPHS = {
    "skips": ([*DEEP, ("Add", ["b/Conv:0", "in/Relu:0"], "block/Add")], ["block/Add:1"]),
    "projected": (
        [*DEEP, ("Conv", ["in/Relu:0", "w3"], "down/Conv"), ("Add", ["down/Conv:0", "b/Conv:0"], "block/Add")],
        ["block/Add:0"],
    ),
    "gated": ([DEEP[0], DEEP[1], ("Sigmoid", ["a/Conv:0"], "s"), ("Add", ["a/Conv:0", "s:0"], "block/Add")], []),
    "nonlinear": ([*DEEP[:3], ("Add", ["a/Relu:0", "in/Relu:0"], "block/Add")], []),
    "twice": ([*DEEP[:2], ("Add", ["a/Conv:0", "a/Conv:0"], "block/Add")], []),
    "from_outside": ([DEEP[0], DEEP[1], ("Add", ["x", "a/Conv:0"], "block/Add")], ["block/Add:0"]),
}


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_which_operand_it_is(name, tmp_path):
    nodes, wanted = GRAPHS[name]
    graph = graph_of(tmp_path, nodes, W)
    products = [node for node in graph if node.op_type == "Conv"]
    known = {"block/Add:0": 1.0, "block/Add:1": 1.0}
    found = [f"{each.node.name}:{each.index}" for each in residual.operands(graph, products, known, "int8")]
    assert found == wanted
    assert not list(residual.operands(graph, products, {}, "int8")), "without a range it stays"
    assert not list(residual.operands(graph, [], known, "int8")), "beside a layer in floats it stays"
