"""The lint is silent on graphs that a strongly typed builder takes, and names each defect that was planted."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from tests.unit.graph.examples import attention_ranges, make_plan, sample
from trtbuild.graph import document, insertion
from trtbuild.graph.lint import lint
from trtbuild.graph.lint_rules import RULES

K, N = 256, 64
NUMPY = {T.FLOAT: np.float32, T.FLOAT16: np.float16}


def scales(shape: tuple[int, ...] | int = (), kind: int = T.FLOAT, value: float = 0.01):
    return np.full(shape, value, NUMPY[kind])


def model(nodes, constants, *, kind: int = T.FLOAT, width: int = K, opset: int = 21, output: str = "y") -> ir.Model:
    """A graph from x [batch, width] to y, through onnx's own constructors and a file's round trip."""
    tensors = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", width])],
        [helper.make_tensor_value_info(output, T.UNDEFINED, None)],
        tensors,
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def node(kind: str, inputs: str, output: str, **attributes):
    return helper.make_node(kind, inputs.split(), [output], name=f"fc/{kind}/{output}", **attributes)


def quantized_input(constants: dict, kind: int = T.FLOAT):
    constants |= {"sx": scales(kind=kind), "zx": np.int8(0)}
    return [node("QuantizeLinear", "x sx zx", "xq"), node("DequantizeLinear", "xq sx zx", "xd")]


def w8a8(kind: int = T.FLOAT, *, weight_kind: int | None = None, **weight_attributes) -> ir.Model:
    """One INT8 layer with float weights behind Q and DQ, as ModelOpt's torch path writes it."""
    attributes = {"axis": 1, **weight_attributes}
    constants = {"w": np.ones((K, N), NUMPY[weight_kind or kind]), "sw": scales(N, kind), "zw": np.zeros(N, np.int8)}
    nodes = quantized_input(constants, kind)
    nodes += [
        node("QuantizeLinear", "w sw zw", "wq", **attributes),
        node("DequantizeLinear", "wq sw zw", "wd", **attributes),
        node("MatMul", "xd wd", "y"),
    ]
    return model(nodes, constants, kind=kind)


def weight_only(codes, scale, *, product: str = "MatMul", width: int = K, opset: int = 21, **attributes) -> ir.Model:
    """x times a weight of codes behind a DequantizeLinear."""
    flags = {"transB": 1} if product == "Gemm" else {}
    nodes = [node("DequantizeLinear", "w sw", "wd", **attributes), node(product, "x wd", "y", **flags)]
    return model(nodes, {"w": codes, "sw": scale}, width=width, opset=opset)


def int4(*shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, ml_dtypes.int4), "w")


def int8(*shape: int) -> np.ndarray:
    return np.ones(shape, np.int8)


def codes_found(graph: ir.Model) -> list[str]:
    return sorted({found.code for found in lint(graph)})


GOOD = {
    "INT8 in FP32": w8a8(),
    "INT8 in FP16": w8a8(T.FLOAT16),
    "INT8 weights, MatMul": weight_only(int8(K, N), scales(N), axis=1),
    "INT8 weights, Gemm": weight_only(int8(N, K), scales(N), product="Gemm", axis=0),
    "INT8 weights, a scale a tensor": weight_only(int8(K, N), scales()),
    "INT4, MatMul": weight_only(int4(K, N), scales((K // 128, N)), axis=0, block_size=128),
    "INT4, Gemm": weight_only(int4(N, K), scales((N, K // 64)), product="Gemm", axis=1, block_size=64),
    "INT4, the axis counted from the back": weight_only(int4(K, N), scales((K // 32, N)), axis=-2, block_size=32),
    "plain": model([node("MatMul", "x w", "y")], {"w": np.ones((K, N), np.float32)}),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_graph_gets_no_finding(name: str) -> None:
    assert lint(GOOD[name]) == []


@pytest.mark.parametrize("form", ["int8_sq", "w8a16", "fp8_pc_pt", "fp8_block128", "int4_awq", "w4a8_awq"])
def test_what_insertion_writes_gets_no_finding(exported, form: str) -> None:
    path = exported("postnorm")
    graph = document.load(path)
    assert insertion.insert(graph, make_plan(path, sample("postnorm"), form), attention="high").inserted == 6
    assert lint(graph) == []


def test_quantized_attention_gets_no_finding(exported) -> None:
    path, x = exported("postnorm"), sample("postnorm")
    graph = document.load(path)
    insertion.insert(graph, make_plan(path, x, "int8"), attention="int8", ranges=attention_ranges(path, x))
    assert sum(node.op_type == "DequantizeLinear" for node in graph.graph) > 12
    assert lint(graph) == []


def with_scale(value: np.ndarray) -> ir.Model:
    return weight_only(int8(K, N), value.astype(np.float32), axis=1)


def with_zero_point(zero, *, output_type: int = 0) -> ir.Model:
    constants = {"sx": scales(), **({"z": zero} if zero is not None else {})}
    parameters = "sx z" if zero is not None else "sx"
    extra = {"output_dtype": output_type} if output_type else {}
    nodes = [
        node("QuantizeLinear", f"x {parameters}", "xq", **extra),
        node("DequantizeLinear", f"xq {parameters}", "y"),
    ]
    return model(nodes, constants)


def between(op: str) -> ir.Model:
    """Something between the DequantizeLinear of a weight and its product."""
    constants = {"w": int8(N, K) if op == "Transpose" else int8(K, N), "sw": scales(), "two": np.float32(2)}
    middle = {
        "Transpose": node("Transpose", "wd", "wm", perm=[1, 0]),
        "Mul": node("Mul", "wd two", "wm"),
        "Cast": node("Cast", "wd", "wm", to=T.FLOAT),
    }[op]
    return model([node("DequantizeLinear", "w sw", "wd"), middle, node("MatMul", "x wm", "y")], constants)


def activation_only() -> ir.Model:
    constants: dict = {"w": np.ones((K, N), np.float32)}
    return model([*quantized_input(constants), node("MatMul", "xd w", "y")], constants)


def activation_with_scales(op: str = "") -> ir.Model:
    if op == "Gather":
        nodes = [node("Gather", "w i", "rows"), node("DequantizeLinear", "rows sw", "y", axis=1)]
        return model(nodes, {"w": int8(K, N), "i": np.zeros(3, np.int64), "sw": scales(N)})
    constants = {"sx": scales(K), "zx": np.zeros(K, np.int8)}
    return model([node("QuantizeLinear", "x sx zx", "q"), node("DequantizeLinear", "q sx zx", "y")], constants)


def mixed() -> ir.Model:
    nodes = [node("MatMul", "x w", "m"), node("Cast", "m", "h", to=T.FLOAT16), node("Add", "h b", "y")]
    return model(nodes, {"w": np.ones((K, N), np.float32), "b": np.ones(N, np.float32)})


def int32_bias() -> ir.Model:
    nodes = [node("DequantizeLinear", "b sb", "bd"), node("Gemm", "x w bd", "y")]
    return model(nodes, {"b": np.ones(N, np.int32), "sb": scales(), "w": np.ones((K, N), np.float32)})


def computed_scale() -> ir.Model:
    nodes = [
        node("ReduceMax", "x", "s", keepdims=0),
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "y"),
    ]
    return model(nodes, {"z": np.int8(0)})


def fp8_without_opset() -> ir.Model:
    codes = numpy_helper.from_array(np.ones((K, N), ml_dtypes.float8_e4m3fn), "w")
    return weight_only(codes, scales(), opset=18)


# The defect, its graph, the codes that must be found and no other.
DEFECTS = {
    # Model-Optimizer 118, and what INT8 with weights_dtype="fp16" writes: an FP32 weight with FP16 scales
    "FP32 weight, FP16 scale": (w8a8(T.FLOAT16, weight_kind=T.FLOAT), ["Q001"]),
    # TensorRT 4832: FP32 out of a DequantizeLinear with an FP16 scale
    "FP32 output, FP16 scale": (
        weight_only(int8(K, N), scales(N, T.FLOAT16), axis=1, output_dtype=T.FLOAT, opset=23),
        ["Q001"],
    ),
    "computed scale": (computed_scale(), ["Q002"]),
    "zero among the scales": (with_scale(np.r_[np.ones(N - 1), 0]), ["Q003"]),
    "negative scale": (with_scale(-np.ones(N)), ["Q003"]),
    "infinite scale": (with_scale(np.r_[np.ones(N - 1), np.inf]), ["Q003"]),
    "scale that is no number": (with_scale(np.r_[np.ones(N - 1), np.nan]), ["Q003"]),
    "zero point of 3": (with_zero_point(np.int8(3)), ["Q004"]),
    "too few scales": (weight_only(int8(K, N), scales(N - 1), axis=1), ["Q005"]),
    "an axis that is none": (weight_only(int8(K, N), scales(N), axis=2), ["Q005"]),
    # AWQ on Gemm(transB=1): blocks of the second axis, said to be of the first
    "INT4 scales turned": (
        weight_only(int4(N, K), scales((N, K // 16)), product="Gemm", axis=0, block_size=16),
        ["Q005", "Q007"],
    ),
    # rtn_dq on Gemm(transB=1): blocks along N instead of K; it runs, with the wrong granularity
    "INT4 blocks along the outputs": (
        weight_only(int4(N, K), scales((N // 32, K)), product="Gemm", axis=0, block_size=32),
        ["Q007"],
    ),
    "INT4 blocks along the outputs, MatMul": (
        weight_only(int4(K, N), scales((K, N // 32)), axis=1, block_size=32),
        ["Q007"],
    ),
    "channels of the inputs": (weight_only(int8(K, N), scales(K), axis=0), ["Q007"]),
    "blocks that do not divide": (
        weight_only(int4(200, N), scales((2, N)), axis=0, block_size=128, width=200),
        ["Q006"],
    ),
    "Transpose between": (between("Transpose"), ["Q008"]),
    "Mul between": (between("Mul"), ["Q008"]),
    "Cast between": (between("Cast"), ["Q008"]),
    "activation quantized, weight not": (activation_only(), ["Q009"]),
    "scales a channel on an activation": (activation_with_scales(), ["Q010"]),
    "a gathered table": (activation_with_scales("Gather"), ["Q017"]),
    "UINT8 activation": (with_zero_point(np.uint8(0)), ["Q011"]),
    "no zero point, so UINT8": (with_zero_point(None), ["Q011"]),
    "FP16 plus FP32": (mixed(), ["Q012"]),
    "INT32 bias": (int32_bias(), ["Q013"]),
    "FP8 in opset 18": (fp8_without_opset(), ["Q014"]),
    "blocks in opset 19": (
        weight_only(int4(K, N), scales((K // 128, N)), axis=0, block_size=128, opset=19),
        ["Q014"],
    ),
    "an odd number of INT4": (weight_only(int4(3, 5), scales(), width=3), ["Q015"]),
    "two output types": (with_zero_point(np.int8(0), output_type=T.FLOAT8E4M3FN), ["Q016"]),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found_and_nothing_else(name: str) -> None:
    graph, wanted = DEFECTS[name]
    assert codes_found(graph) == wanted
    for found in lint(graph):
        assert found.node.startswith("fc/")
        assert (found.severity, found.remedy) == RULES[found.code]


def test_every_rule_has_a_planted_defect() -> None:
    assert {code for _, wanted in DEFECTS.values() for code in wanted} == set(RULES)


def test_errors_come_before_warnings() -> None:
    graph = between("Mul")
    graph.graph.initializers["sw"].const_value = ir.tensor(np.float32(-1), name="sw")
    assert [found.severity for found in lint(graph)] == ["error", "warning"]


def test_a_type_is_known_through_operators_that_declare_none() -> None:
    nodes = [
        node("Cast", "x", "h", to=T.FLOAT16),
        node("Relu", "h", "r"),
        node("QuantizeLinear", "r sx zx", "q"),
        node("DequantizeLinear", "q sx zx", "y"),
    ]
    (found,) = lint(model(nodes, {"sx": scales(), "zx": np.int8(0)}))
    assert (found.code, found.message) == ("Q001", "its data is FLOAT16 and its scale FLOAT: one type is wanted")


def test_the_bytes_of_weights_are_never_read(tmp_path: Path) -> None:
    """A weight of 4 GB that is a hole in a file: reading it would take seconds, and the memory."""
    rows = 1 << 15
    weight = onnx.TensorProto(name="w", data_type=T.INT8, dims=[rows, 1 << 17], data_location=T.EXTERNAL)
    for key, value in (("location", "w.data"), ("length", str(rows << 17))):
        weight.external_data.add(key=key, value=value)
    with (tmp_path / "w.data").open("wb") as hole:
        hole.truncate(rows << 17)
    nodes = [node("DequantizeLinear", "w sw", "wd", axis=1), node("MatMul", "x wd", "y")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", T.FLOAT, ["batch", rows])],
        [helper.make_tensor_value_info("y", T.FLOAT, ["batch", 1 << 17])],
        [weight, numpy_helper.from_array(scales(1 << 17), "sw")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    loaded = document.load(tmp_path / "model.onnx")
    loaded.graph.initializers["w"].const_value.numpy = _never  # type: ignore[method-assign, union-attr]
    with pytest.raises(AssertionError, match="was read"):
        loaded.graph.initializers["w"].const_value.numpy()  # type: ignore[union-attr]
    assert lint(loaded) == []


def _never(*_: object) -> None:
    raise AssertionError("the weight was read")
