"""Attention products: found by pattern, quantized on both operands, right where smoothing folds into the value."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.graph.examples import HEADS, WIDTH, attention_ranges, make_plan, run, run_model, sample
from tests.unit.graph.reference import assert_same_numerics, fake, reference, relative
from trtbuild.core.formats import FORMATS
from trtbuild.core.quantization import Plan
from trtbuild.graph import attention, document, insertion

torch = pytest.importorskip("torch")
ROLES = {"query": ("attention/MatMul", 0), "key": ("attention/MatMul", 1), "value": ("attention/MatMul_1", 1)}


def amax_by_role(ranges, number_type="int8"):
    softmax = ranges["attention/MatMul_1:0"] if number_type == "int8" else 1.0
    return {"softmax": softmax, **{role: ranges[f"{node}:{index}"] for role, (node, index) in ROLES.items()}}


@pytest.mark.parametrize("number_type", ["int8", "fp8"])
@pytest.mark.parametrize("form", ["w8a16", "int8", "fp8", "int4_awq"])
def test_both_operands_of_both_products_are_quantized(exported, tmp_path, form, number_type):
    path, x = exported("postnorm"), sample("postnorm")
    plan, model, ranges = make_plan(path, x, form), document.load(path), attention_ranges(path, x)
    if FORMATS[form].algorithm == "awq":  # the scale that goes into the value has a test of its own
        plan = Plan({module: numbers for module, numbers in plan.modules.items() if module != "attention.out"})
    coverage = insertion.insert(model, plan, attention=number_type, ranges=ranges)
    assert [
        (layer.module, layer.format, layer.inserted) for layer in coverage.layers if "attention_" in layer.format
    ] == [("attention", f"attention_{number_type}", True)]
    counts = Counter(node.op_type for node in model.graph)
    layers = [layer for layer in coverage.layers if layer.module != "attention"]
    assert counts["DequantizeLinear"] == 4 + sum(1 + bool(FORMATS[layer.format].activation) for layer in layers)
    assert counts["QuantizeLinear"] == 4 + (4 if FORMATS[form].activation else 0)
    products = [node for node in model.graph if node.name in ("attention/MatMul", "attention/MatMul_1")]
    behind = [[value.producer() for value in node.inputs] for node in products]
    assert all(node.op_type == "DequantizeLinear" for pair in behind for node in pair)
    before = [[node.inputs[0].producer().inputs[0].producer().op_type for node in pair] for pair in behind]
    assert before == [["Transpose", "Transpose"], ["Softmax", "Transpose"]], "the key is transposed before Q"
    softmax = behind[1][0].inputs[1].const_value.numpy()
    amax = amax_by_role(ranges, number_type)
    assert amax["softmax"] < 0.9 or number_type == "fp8"
    assert softmax == np.float32(amax["softmax"] / {"int8": 127, "fp8": 448}[number_type])
    wanted = reference("postnorm", plan, path, operand=lambda role, y: fake(y, amax[role], number_type))
    assert_same_numerics(run_model(model, x, tmp_path), wanted)


@pytest.mark.parametrize(("form", "wanted"), [("fp8", "attention_fp8"), ("w4a8_awq", "attention_fp8"), ("int8", None)])
def test_auto_follows_fp8_activations(exported, form, wanted):
    path, x = exported("postnorm"), sample("postnorm")
    coverage = insertion.insert(
        document.load(path), make_plan(path, x, form), attention="auto", ranges=attention_ranges(path, x)
    )
    assert [layer.format for layer in coverage.layers if layer.module == "attention"] == ([wanted] if wanted else [])


def test_a_scale_folded_into_the_value_widens_its_fp8_range(exported, tmp_path):
    path, x = exported("postnorm"), sample("postnorm")
    ranges = attention_ranges(path, x)
    numbers = make_plan(path, x, "int8_sq").modules["attention.out"]
    scale = np.linspace(0.5, 40, WIDTH, dtype=np.float32)  # the value's channels grow, which its range must follow
    numbers = replace(
        numbers, pre_quant_scale=scale, input_amax=(numbers.input_channel_amax * scale).max(), format="int8_sq"
    )
    weight = dict_of_weights(path)["attention.out"]
    plan = Plan({"attention.out": replace(numbers, weight_amax=np.abs(weight / scale).max(1))})
    model = document.load(path)
    coverage = insertion.insert(model, plan, attention="fp8", ranges=ranges)
    assert (coverage.smoothing_folded, coverage.smoothing_left) == (1, [])
    amax, by_head = amax_by_role(ranges, "fp8"), torch.from_numpy(scale).reshape(HEADS, 1, WIDTH // HEADS)

    def operand(role, y):
        if role != "value":
            return fake(y, amax[role], "fp8")
        return fake(y * by_head, np.float32(amax["value"]) * scale.max(), "fp8") / by_head

    assert_same_numerics(run_model(model, x, tmp_path), reference("postnorm", plan, path, operand=operand))


def dict_of_weights(path):
    from tests.unit.graph.examples import linears

    return {module: weight for module, (_, weight) in linears(path).items()}


def test_an_int8_value_takes_no_scale(exported, tmp_path):
    path, x = exported("postnorm"), sample("postnorm")
    plan, model, ranges = make_plan(path, x, "int8_sq"), document.load(path), attention_ranges(path, x)
    coverage = insertion.insert(model, plan, attention="int8", ranges=ranges)
    assert coverage.smoothing_left == ["attention.out"]
    amax = amax_by_role(ranges)
    wanted = reference("postnorm", plan, path, operand=lambda role, y: fake(y, amax[role], "int8"))
    assert_same_numerics(run_model(model, x, tmp_path), wanted)


def test_a_missing_range_is_a_miss_and_the_scale_still_folds(exported, tmp_path):
    path, x = exported("postnorm"), sample("postnorm")
    ranges = attention_ranges(path, x)
    del ranges["attention/MatMul:1"], ranges["attention/MatMul_1:1"]
    plan, model = make_plan(path, x, "int8_sq"), document.load(path)
    coverage = insertion.insert(model, plan, attention="int8", ranges=ranges)
    layer = next(layer for layer in coverage.layers if layer.module == "attention")
    assert (layer.inserted, layer.reason) == (False, "no range was observed for its key and value")
    assert coverage.smoothing_left == []
    assert_same_numerics(run_model(model, x, tmp_path), reference("postnorm", plan, path))


def test_an_excluded_attention_stays_high_with_the_reason(exported):
    path, x = exported("postnorm"), sample("postnorm")
    coverage = insertion.insert(
        document.load(path), make_plan(path, x, "fp8"), ranges=attention_ranges(path, x), exclude=["attention"]
    )
    assert coverage.kept_high["attention"] == "excluded by pattern 'attention'"
    assert "attention" not in {layer.module for layer in coverage.layers}
    assert coverage.inserted == 6


def scaled_dot_product(after=(), dtype=TensorProto.FLOAT, module="block/"):
    """Query and key scaled before their product, a mask behind it, a guard or cast behind the softmax."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["q", "root"], ["qs"], name=f"{module}Mul"),
        helper.make_node("Mul", ["k", "root"], ["ks"], name=f"{module}Mul_1"),
        helper.make_node("MatMul", ["qs", "ks"], ["s"], name=f"{module}MatMul"),
        helper.make_node("Where", ["mask", "s", "low"], ["m"], name=f"{module}Where"),
        helper.make_node("Softmax", ["m"], ["p"], name=f"{module}Softmax"),
        *after,
        helper.make_node("MatMul", [after[-1].output[0] if after else "p", "v"], ["y"], name=f"{module}MatMul_1"),
    ]
    shapes = {"q": [2, 4, 6, 8], "k": [2, 4, 8, 6], "v": [2, 4, 6, 8]}
    inputs = [value(name, dtype, shape) for name, shape in shapes.items()] + [value("mask", TensorProto.BOOL, [6, 6])]
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    constants = [
        numpy_helper.from_array(np.array(number, kind), name) for name, number in (("root", 0.5), ("low", -1e4))
    ]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", dtype, [2, 4, 6, 8])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


GUARD = [
    helper.make_node("IsNaN", ["p"], ["nan"], name="block/IsNaN"),
    helper.make_node("Where", ["nan", "zero", "p"], ["g"], name="block/Where_1"),
]


@pytest.mark.parametrize("guarded", [False, True])
def test_scaled_queries_masks_and_guards_are_part_of_the_pattern(guarded):
    proto = scaled_dot_product(GUARD if guarded else ())
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    model = ir.from_proto(proto)
    found = attention.find(model.graph)
    assert [(entry.module, entry.scores.name, entry.context.name) for entry in found] == [
        ("block", "block/MatMul", "block/MatMul_1")
    ]
    ranges = {"block/MatMul:0": 3.0, "block/MatMul:1": 3.0, "block/MatMul_1:1": 4.0}
    coverage = insertion.insert(model, Plan({}), attention="fp8", ranges=ranges)
    assert coverage.inserted == 1
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    operands = [value.producer().op_type for node in (found[0].scores, found[0].context) for value in node.inputs]
    assert operands == ["DequantizeLinear"] * 4


def test_scales_have_the_type_of_the_operands():
    model = ir.from_proto(scaled_dot_product(dtype=TensorProto.FLOAT16))
    ranges = {"block/MatMul:0": 3.0, "block/MatMul:1": 3.0, "block/MatMul_1:1": 4.0}
    insertion.insert(model, Plan({}), attention="fp8", ranges=ranges)
    scales = {node.inputs[1].dtype.name for node in model.graph if node.op_type == "QuantizeLinear"}
    assert scales == {"FLOAT16"}


def test_without_a_module_path_the_softmax_names_the_attention():
    found = attention.find(ir.from_proto(scaled_dot_product(module="")).graph)
    assert [entry.module for entry in found] == ["Softmax"]


def test_an_attention_operator_hides_its_products():
    value = helper.make_tensor_value_info
    inputs = [value(name, TensorProto.FLOAT, [1, 2, 4, 8]) for name in ("q", "k", "v")]
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], name="block/Attention")
    graph = helper.make_graph([node], "g", inputs, [value("y", TensorProto.FLOAT, [1, 2, 4, 8])])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11))
    coverage = insertion.insert(model, Plan({}), attention="fp8")
    assert [(layer.module, layer.inserted) for layer in coverage.layers] == [("block", False)]
    assert "hidden in an Attention node" in coverage.layers[0].reason


def test_quantized_attention_stays_near_the_float_model(exported, tmp_path):
    path, x = exported("prenorm"), sample("prenorm")
    model = document.load(path)
    insertion.insert(model, make_plan(path, x, "fp8"), ranges=attention_ranges(path, x))
    assert 0 < relative(run_model(model, x, tmp_path), run(path, x)[0]) < 0.1
