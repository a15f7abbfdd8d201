"""Insertion: what folds, what is shared, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.unit.graph.examples import make_plan, run, run_model, sample
from tests.unit.graph.reference import relative
from trtbuild.core.errors import ModelError
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.graph import document, insertion, smoothing
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import linear, products

torch = pytest.importorskip("torch")
LINEAR = ["postnorm", "prenorm", "mlp", "gelu"]


@pytest.mark.parametrize("name", LINEAR)
def test_folding_changes_no_result(exported, tmp_path, name):
    """Weights stay float: what smoothing divides, its folds multiply."""
    path, x = exported(name), sample(name)
    model, plan = document.load(path), make_plan(path, x, "int8_sq")
    nodes = products(model.graph)
    entries = [linear(module, numbers, nodes[module]) for module, numbers in plan.modules.items()]
    smoothing.smooth(model.graph, entries)
    for entry in entries:
        matrix, _ = entry.scaled()
        stored = np.ascontiguousarray(matrix if entry.axis == 0 else matrix.T)
        entry.weight.const_value = type(entry.weight.const_value)(
            onnx.numpy_helper.from_array(stored, entry.weight.name)
        )
    assert relative(run_model(model, x, tmp_path), run(path, x)[0]) <= 1e-5


def test_query_key_value_share_one_quantizer_and_the_residual_keeps_its_norm(exported):
    path = exported("postnorm")
    model = document.load(path)
    insertion.insert(model, make_plan(path, sample("postnorm"), "int8_sq"), embeddings="high", exclude=[])
    nodes = products(model.graph)
    dequantizers = [nodes[f"attention.{part}"][0].inputs[0].producer() for part in ("query", "key", "value")]
    assert len({node.inputs[0] for node in dequantizers}) == 1
    assert len(set(dequantizers)) == 3, "ONNX Runtime wants a DequantizeLinear of its own before each product"
    names = {node.name for node in model.graph}
    assert {"first/LayerNormalization", "first/LayerNormalization_smoothed"} <= names
    assert not any("Mul_smooth" in name for name in names)


def to_fp16(path, target):
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(proto, target)


@pytest.mark.parametrize("form", ["int8", "int8_sq", "w8a16"])
@pytest.mark.parametrize("name", LINEAR)
def test_fp16_graphs_get_fp16_scales(exported, tmp_path, name, form):
    path, x = exported(name), sample(name)
    plan = make_plan(path, x, form)
    to_fp16(path, tmp_path / "fp16.onnx")
    model = document.load(tmp_path / "fp16.onnx")
    coverage = insertion.insert(model, plan, embeddings="high", exclude=[])
    assert coverage.inserted == len(plan.modules)
    scales = {node.inputs[1].dtype.name for node in model.graph if node.op_type == "DequantizeLinear"}
    assert scales == {"FLOAT16"}
    got = run_model(model, x.astype(np.float16), tmp_path)
    assert got.dtype == np.float16
    assert relative(got, run(path, x)[0]) < 0.06


def test_a_dead_channel_and_a_dead_input_give_no_nan(exported, tmp_path):
    path, x = exported("mlp"), sample("mlp")
    plan = make_plan(path, x, "int8")
    dead = replace(plan.modules["b"], weight_amax=np.zeros(8, np.float32), input_amax=np.float32(0))
    model = document.load(path)
    weight = model.graph.initializers["b.weight"]
    weight.const_value = ir.tensor(np.zeros_like(weight.const_value.numpy()), name="b.weight")
    insertion.insert(model, Plan({"b": dead}), embeddings="high", exclude=[])
    assert np.isfinite(run_model(model, x, tmp_path)).all()


def test_excluded_modules_stay_high_with_the_reason(exported):
    path = exported("postnorm")
    model = document.load(path)
    plan = make_plan(path, sample("postnorm"), "int8_sq")
    coverage = insertion.insert(model, plan, embeddings="high", exclude=["attention.q*"])
    assert coverage.kept_high["attention.query"] == "excluded by pattern 'attention.q*'"
    assert "attention.query" not in {layer.module for layer in coverage.layers}
    assert constant(products(model.graph)["attention.query"][0].inputs[1]) is not None


def test_a_pattern_that_matches_nothing_suggests_names(exported):
    model = document.load(exported("postnorm"))
    with pytest.raises(ModelError, match=r"did you mean .*attention\.query"):
        insertion.insert(model, Plan({}), embeddings="high", exclude=["attention.qeury"])


def test_a_module_that_no_output_depends_on_is_not_asked_for(exported):
    path = exported("postnorm")
    plan = make_plan(path, sample("postnorm"), "int8")
    with_pooler = replace(plan, modules={**plan.modules, "pooler": plan.modules["up"]})
    coverage = insertion.insert(document.load(path), with_pooler, embeddings="high", exclude=[])
    assert coverage.asked == coverage.inserted == len(plan.modules)
    assert coverage.kept_high["pooler"] == "no exported output depends on it"


def test_a_missing_module_is_a_miss_while_some_product_belongs_to_nobody(exported):
    path = exported("postnorm")
    plan = make_plan(path, sample("postnorm"), "int8")
    modules = {("renamed" if module == "up" else module): numbers for module, numbers in plan.modules.items()}
    coverage = insertion.insert(document.load(path), replace(plan, modules=modules), embeddings="high", exclude=[])
    assert (coverage.asked, coverage.inserted) == (len(modules), len(modules) - 1)
    assert [layer.module for layer in coverage.layers if not layer.inserted] == ["renamed"]


def test_modules_that_cannot_be_quantized_say_why(exported):
    path = exported("postnorm")
    plan = make_plan(path, sample("postnorm"), "int8")
    numbers = plan.modules["up"]
    wrong = ModuleQuantization("int8", np.ones(7, np.float32), np.float32(1))
    asked = Plan({"nowhere": numbers, "attention": numbers, "down": wrong, "up": numbers})
    coverage = insertion.insert(document.load(path), asked, embeddings="high", exclude=[])
    assert {layer.module: layer.reason for layer in coverage.layers} == {
        "nowhere": "the graph has no matrix product of this name, and has one that belongs to no module: "
        "the exporter may have renamed it",
        "attention": "its matrix products have different weights",
        "down": "its weight has 32 output channels, the plan has 7",
        "up": "",
    }
    assert coverage.inserted == 1


def test_a_quantized_graph_is_refused(exported):
    path = exported("mlp")
    model, plan = document.load(path), make_plan(path, sample("mlp"), "int8")
    insertion.insert(model, plan, embeddings="high", exclude=[])
    with pytest.raises(ModelError, match="already quantized"):
        insertion.insert(model, plan, embeddings="high", exclude=[])


def test_an_old_opset_is_refused(exported):
    path = exported("mlp")
    model = document.load(path)
    model.opset_imports[""] = 12
    with pytest.raises(ModelError, match="opset 13"):
        insertion.insert(model, make_plan(path, sample("mlp"), "int8"), embeddings="high", exclude=[])


def test_different_scales_on_one_tensor_need_channel_amax(exported):
    path = exported("postnorm")
    plan = make_plan(path, sample("postnorm"), "int8_sq")
    modules = {module: replace(numbers, input_channel_amax=None) for module, numbers in plan.modules.items()}
    with pytest.raises(ModelError, match="lacks input_channel_amax"):
        insertion.insert(document.load(path), Plan(modules), embeddings="high", exclude=[])


@pytest.mark.parametrize("exclude", [[], ["table"]])
def test_embedding_tables_are_gathered_as_codes(exported, tmp_path, exclude):
    path, ids = exported("words"), sample("words")
    model = document.load(path)
    coverage = insertion.insert(model, Plan({}), embeddings="int8", exclude=exclude)
    got, wanted = run_model(model, ids, tmp_path), run(path, ids)[0]
    if exclude:
        assert coverage.layers == []
        assert (got == wanted).all()
        return
    assert [(layer.module, layer.format, layer.inserted) for layer in coverage.layers] == [
        ("table", "embedding_int8", True)
    ]
    dequantizer = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    assert dequantizer.attributes["axis"].as_int() == 2
    assert dequantizer.inputs[0].producer().op_type == "Gather"
    assert 0 < relative(got, wanted) < 0.02
    assert (tmp_path / "model.onnx").stat().st_size < path.stat().st_size / 3
