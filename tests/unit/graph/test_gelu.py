"""A scale behind a GELU goes into it, and comes out again, without changing a number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.graph.examples import make_plan, run, run_model, sample
from tests.unit.graph.reference import relative
from trtbuild.core.quantization import Plan
from trtbuild.graph import document, gelu, insertion
from trtbuild.graph.folding import fold

SCALE = np.linspace(0.2, 5, 16, dtype=np.float32)
X = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32) * 4


def network(nodes, dtype=TensorProto.FLOAT, opset=21, outputs=("y",)):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["g", "w"], ["y"], name="down/MatMul")],
        "g",
        [value("x", dtype, ["batch", 16])],
        [value(name, dtype, ["batch", 16]) for name in outputs],
        [
            numpy_helper.from_array(np.eye(16, dtype=helper.tensor_dtype_to_np_dtype(dtype)), "w"),
            *(numpy_helper.from_array(np.float32(number), name) for name, number in
              (("half", 0.5), ("one", 1), ("root", np.sqrt(2)))),
        ],
    )  # fmt: skip
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def compute(model, x=X):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return run(proto, x)[0]


def folded(model):
    product = next(node for node in model.graph if node.name == "down/MatMul")
    return fold(model.graph, product.inputs[0], [product], SCALE, [], [])


def operator(approximate="none"):
    return [helper.make_node("Gelu", ["x"], ["g"], name="act/Gelu", approximate=approximate)]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_there_and_back(approximate):
    model = network(operator(approximate))
    wanted = compute(model) * SCALE
    assert folded(model)
    counts = Counter(node.op_type for node in model.graph)
    assert (counts["Gelu"], counts["Mul"]) == (0, 5 if approximate == "tanh" else 3)
    assert "act/Mul_gelu_scale" in {node.name for node in model.graph}
    assert relative(compute(model), wanted) < 1e-6
    assert gelu.fuse_gelu(model) == 1
    assert [node.op_type for node in model.graph] == ["Gelu", "Mul", "MatMul"]
    assert model.graph[0].attributes["approximate"].as_string() == approximate
    assert relative(compute(model), wanted) < 1e-6
    assert gelu.fuse_gelu(model) == 0


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_in_fp16_nothing_overflows(approximate):
    model = network(operator(approximate), TensorProto.FLOAT16)
    assert folded(model)
    x = np.linspace(-60000, 60000, 64).reshape(4, 16).astype(np.float16)
    wanted = np.maximum(x.astype(np.float32), 0) * np.float16(0.9)
    scale, scaled = SCALE.copy(), compute(model, (x / 16).astype(np.float16))
    assert np.isfinite(scaled).all()
    assert relative(scaled, wanted / np.float16(0.9) / 16 * scale) < 2e-3


def test_a_gelu_that_others_read_stays_whole():
    model = network(operator(), outputs=("y", "g"))
    assert not folded(model)
    assert [node.op_type for node in model.graph] == ["Gelu", "MatMul"]


DECOMPOSED = {
    "x ((1 + erf) / 2)": [("Mul", ["half", "e"], "h"), ("Mul", ["x", "h"], "g")],
    "(x / 2) (1 + erf)": [("Mul", ["x", "half"], "h"), ("Mul", ["h", "e"], "g")],
    "(x (1 + erf)) / 2": [("Mul", ["x", "e"], "h"), ("Mul", ["h", "half"], "g")],
}


@pytest.mark.parametrize("form", list(DECOMPOSED))
def test_a_written_out_gelu_takes_the_scale_into_its_half(form):
    steps = [("Div", ["x", "root"], "d"), ("Erf", ["d"], "f"), ("Add", ["f", "one"], "e"), *DECOMPOSED[form]]
    nodes = [helper.make_node(kind, read, [out], name=f"act/{kind}_{out}") for kind, read, out in steps]
    model = network(nodes, opset=18)
    wanted = compute(model) * SCALE
    assert folded(model)
    assert [node.op_type for node in model.graph] == [*(kind for kind, _, _ in steps), "MatMul"]
    assert relative(compute(model), wanted) < 1e-6
    assert gelu.fuse_gelu(model) == 0


@pytest.mark.parametrize("form", ["int8_sq", "int4_awq"])
def test_a_quantized_network_is_the_same_with_its_gelus_fused(exported, tmp_path, form):
    pytest.importorskip("torch")
    path, x = exported("gelu"), sample("gelu")
    model = document.load(path)
    coverage = insertion.insert(model, make_plan(path, x, form))
    assert (coverage.smoothing_folded, coverage.smoothing_left) == (3, [])
    assert not any("Mul_smooth" in (node.name or "") for node in model.graph)
    written_out = run_model(model, x, tmp_path / "written")
    assert gelu.fuse_gelu(model) == 2
    fused = run_model(model, x, tmp_path / "fused")
    assert np.median([relative(*pair) for pair in zip(fused, written_out, strict=True)]) < 1e-5
    assert relative(fused, written_out) < 0.01


def test_an_unsmoothed_network_keeps_its_gelus(exported):
    pytest.importorskip("torch")
    model = document.load(exported("gelu"))
    insertion.insert(model, make_plan(exported("gelu"), sample("gelu"), "int8"))
    assert Counter(node.op_type for node in model.graph)["Gelu"] == 2
    assert gelu.fuse_gelu(model) == 0
    assert insertion.insert(document.load(exported("gelu")), Plan({})).layers == []
