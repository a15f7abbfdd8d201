"""Q/DQ read back: insertion's inverse, and what a stranger's graph may hold beside it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.graph.examples import make_plan, sample
from trtbuild.core.dialects import ONNX_RUNTIME, TENSORRT_8
from trtbuild.core.quantization import ModuleQuantization
from trtbuild.graph import document, insertion, reading

INT8, UINT8, FP8, INT4 = TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4


@pytest.mark.parametrize("name", ["postnorm", "mlp"])
@pytest.mark.parametrize(
    ("form", "read_as"),
    [("int8", "int8"), ("fp8", "fp8"), ("fp8_pc_pt", "fp8_pc_pt"), ("w8a16", "w8a16"), ("int4", "int4"),
     ("fp8_block128", "fp8_block128")],
)  # fmt: skip
def test_what_was_inserted_is_read_back(exported, name, form, read_as):
    plan, graph = make_plan(exported(name), sample(name), form), document.load(exported(name))
    assert not reading.is_quantized(graph)
    coverage = insertion.insert(graph, plan, attention="high", dialect=ONNX_RUNTIME)
    assert coverage.inserted == coverage.asked == len(plan.modules)
    assert reading.is_quantized(graph)
    found = reading.read(graph)
    assert not found.unread
    assert found.modules.keys() == plan.modules.keys()
    for module, numbers in found.modules.items():
        wanted = plan.modules[module]
        assert numbers.format == read_as
        np.testing.assert_allclose(numbers.weight_amax, wanted.weight_amax, rtol=1e-6)
        if wanted.input_amax is None:
            assert numbers.input_amax is None
        else:
            np.testing.assert_allclose(numbers.input_amax, wanted.input_amax, rtol=1e-6)


def test_the_dialect_of_floats_behind_q_and_dq_reads_the_same(exported):
    plan, graph = make_plan(exported("postnorm"), sample("postnorm"), "int8"), document.load(exported("postnorm"))
    insertion.insert(graph, plan, attention="high", dialect=TENSORRT_8)
    found = reading.read(graph)
    assert found.modules.keys() == plan.modules.keys()
    assert not found.unread
    np.testing.assert_allclose(found.modules["up"].weight_amax, plan.modules["up"].weight_amax, rtol=1e-6)


def test_a_graph_is_described_in_a_line(exported):
    graph = document.load(exported("postnorm"))
    assert reading.describe(graph) == "no Q/DQ nodes"
    plan = make_plan(exported("postnorm"), sample("postnorm"), "int8")
    plan.modules["up"] = ModuleQuantization("w8a16", plan.modules["up"].weight_amax)
    insertion.insert(graph, plan, attention="high", dialect=ONNX_RUNTIME)
    assert reading.describe(graph) == "5 modules int8, 1 module w8a16"


def test_activations_of_no_module_are_left_over_by_name():
    graph = linear(activation=pair(INT8), weight=codes(INT8, (4,), axis=1), beside=True)
    found = reading.read(graph)
    assert found.modules.keys() == {"fc"}
    assert found.unread == {
        "side/QuantizeLinear": "no product with a constant weight reads it",
        "side/DequantizeLinear": "no product with a constant weight reads it",
    }
    assert reading.describe(graph) == "1 module int8; 2 other Q/DQ nodes"


def test_unsigned_codes_around_128_are_symmetric():
    numbers = reading.read(linear(activation=pair(UINT8, zero=128), weight=codes(INT8, (4,), axis=1))).modules["fc"]
    assert numbers.format == "int8"
    np.testing.assert_allclose(numbers.input_amax, 0.02 * 127, rtol=1e-6)


@pytest.mark.parametrize(
    ("activation", "weight", "reason"),
    [
        ({"kind": UINT8, "zero": 0}, {"kind": INT8, "shape": (4,), "axis": 1}, "asymmetric"),
        ({"kind": INT8, "zero": 3}, {"kind": INT8, "shape": (4,), "axis": 1}, "asymmetric"),
        ({"kind": INT8}, {"kind": INT8, "shape": (8,), "axis": 0}, "scaled along inputs"),
        ({"kind": INT8}, {"kind": INT4, "shape": (2, 4), "axis": 0, "block_size": 4}, "no format here"),
        ({"kind": FP8}, {"kind": INT8, "shape": (4,), "axis": 1}, "no format here"),
        ({"kind": INT8}, None, "its weight is not quantized"),
    ],
)
def test_what_no_plan_can_hold_says_why(activation, weight, reason):
    graph = linear(activation=pair(**activation), weight=None if weight is None else codes(**weight))
    found = reading.read(graph)
    assert not found.modules
    assert len(found.unread) == (3 if weight else 2)
    assert all(reason in told and told.startswith("fc: ") for told in found.unread.values())


def test_blocks_are_read_with_outputs_first():
    scale = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    graph = linear(activation=None, weight=codes(INT4, (2, 4), axis=0, block_size=4, scale=scale))
    numbers = reading.read(graph).modules["fc"]
    assert (numbers.format, numbers.block_size, numbers.input_amax) == ("int4", 4, None)
    np.testing.assert_array_equal(numbers.weight_amax, 7 * scale.T)


def test_names_can_be_given_where_the_graphs_own_do_not_tell():
    graph = linear(activation=pair(INT8), weight=codes(INT8, (4,), axis=1))
    assert reading.read(graph, {"mine": ["fc/MatMul"], "gone": ["none"]}).modules.keys() == {"mine"}


def pair(kind, zero=0):
    """QuantizeLinear and DequantizeLinear of an activation: scale 0.02."""
    return {"kind": kind, "zero": zero}


def codes(kind, shape, axis, block_size=0, scale=None):
    """A DequantizeLinear of a weight [8, 4]."""
    factor = np.full(shape, 0.1, np.float32) if scale is None else scale
    return {"kind": kind, "scale": factor, "axis": axis, "block_size": block_size}


def linear(activation, weight, beside=False) -> ir.Model:
    """x [batch, 8] @ W [8, 4], as told; and another output that is quantized for itself."""
    constants = {"float_weight": numpy_helper.from_array(np.ones((8, 4), np.float32), "float_weight")}
    nodes, operands = [], ["x", "float_weight"]

    def add_pair(name, kind, zero):
        constants[f"{name}_scale"] = numpy_helper.from_array(np.float32(0.02), f"{name}_scale")
        constants[f"{name}_zero"] = helper.make_tensor(f"{name}_zero", kind, [], [zero])
        scaled = [f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("QuantizeLinear", ["x", *scaled], [f"{name}_q"], name=f"{name}/QuantizeLinear"))
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}_q", *scaled], [f"{name}_dq"], name=f"{name}/DequantizeLinear"
            )
        )

    if activation is not None:
        add_pair("input", **activation)
        operands[0] = "input_dq"
    if weight is not None:
        constants["codes"] = helper.make_tensor("codes", weight["kind"], [8, 4], [1] * 32)
        constants["scale"] = numpy_helper.from_array(weight["scale"], "scale")
        block = {"block_size": weight["block_size"]} if weight["block_size"] else {}
        nodes.append(
            helper.make_node(
                "DequantizeLinear", ["codes", "scale"], ["weight"], name="fc/weight", axis=weight["axis"], **block
            )
        )
        operands[1] = "weight"
    nodes.append(helper.make_node("MatMul", operands, ["y"], name="fc/MatMul"))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    if beside:
        add_pair("side", INT8, 0)
        outputs.append(helper.make_tensor_value_info("side_dq", TensorProto.FLOAT, ["batch", 8]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        outputs,
        list(constants.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))
