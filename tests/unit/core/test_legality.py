"""Each rule has a target on which it speaks and one on which it is silent."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir
import pytest

from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import FORMATS
from trtbuild.core.legality import Illegal, Legal, check, legality, target
from trtbuild.core.opsets import greatest_opset, least_opset
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.requirements import TORCH_ONLY

ORT = target("onnxruntime")


def trt(version: str, sm: tuple[int, int] | None = (9, 0)):
    return target("tensorrt", version, sm)


# format, operator, a target on which it is refused, a part of the reason, the nearest, a target on which it runs
RULES = [
    ("fp8", "linear", trt("8.6"), "needs TensorRT 10.0", "int8_sq", trt("10.0")),
    ("w8a16", "linear", trt("8.6"), "needs TensorRT 10.0", "int8_sq", trt("10.0")),
    ("int4_awq", "linear", trt("8.6"), "needs TensorRT 10.0", "int8_sq", trt("10.3")),
    ("fp8_pc_pt", "linear", trt("10.5"), "needs TensorRT 10.6", "fp8", trt("10.6")),
    ("fp8_block128", "linear", trt("10.16"), "needs TensorRT 11.0", "fp8", trt("11.0")),
    ("nvfp4", "linear", trt("10.7", None), "needs TensorRT 10.8", "fp8", trt("10.8", (10, 0))),
    ("mxfp8", "linear", trt("10.11", (10, 0)), "needs TensorRT 10.12", "fp8", trt("10.12", (12, 0))),
    ("int8", "linear", trt("8.5"), "8.6 and later", None, trt("8.6")),
    ("int8", "linear", trt("10.3", (10, 0)), "from 10.8", None, trt("10.8", (10, 0))),
    ("int8", "linear", trt("11.4", (7, 0)), "SM 7.5 (Turing)", None, trt("11.4", (7, 5))),
    ("int4", "linear", trt("11.4", (7, 5)), "SM 8.0 (Ampere)", "w8a16", trt("11.4", (8, 0))),
    ("fp8", "linear", trt("11.4", (8, 6)), "SM 8.9", "int8_sq", trt("11.4", (8, 9))),
    ("nvfp4", "linear", trt("11.4", (9, 0)), "SM 10.0 (Blackwell)", "fp8", trt("11.4", (12, 0))),
    ("nvfp4", "linear", trt("11.4", (8, 0)), "SM 10.0 (Blackwell)", "int4_awq", trt("11.4", (11, 0))),
    ("mxfp8", "linear", trt("11.4", (9, 0)), "SM 10.0 (Blackwell)", "fp8", trt("11.4", (10, 3))),
    ("w4a8_awq", "linear", trt("11.4"), "no product of INT4 weights and FP8", "int4_awq", ORT),
    ("nvfp4", "conv", ORT, "blocks of a matrix", "fp8", ORT),
    ("mxfp8", "conv", trt("11.4", (10, 0)), "quantized as a whole", "fp8", ORT),
    ("mxfp8", "attention", ORT, "INT8 and FP8", "fp8", ORT),
    ("w8a16", "conv", trt("11.4"), "quantized as a whole", "int8", ORT),
    ("int4_awq", "conv", trt("11.4", (8, 0)), "quantized as a whole", "int8", trt("11.4", (8, 0))),
    ("int4", "conv", ORT, "blocks of a matrix", "w8a16", ORT),
    ("w8a16", "attention", trt("11.4"), "multiplies two activations", "int8", ORT),
    ("nvfp4", "attention", trt("11.4", (10, 0)), "INT8 and FP8", "fp8", trt("11.4", (10, 0))),
    ("fp8", "attention", trt("11.4", (8, 0)), "SM 8.9", "int8", trt("11.4", (8, 9))),
]


@pytest.mark.parametrize(("form", "operator", "refuses", "reason", "nearest", "runs"), RULES)
def test_a_rule_refuses_with_what_does_run_and_lets_the_next_target_pass(
    form, operator, refuses, reason, nearest, runs
) -> None:
    said = legality(form, operator, refuses)
    assert isinstance(said, Illegal)
    assert reason in said.reason
    assert said.nearest == nearest
    if nearest:
        assert isinstance(legality(nearest, operator, refuses), Legal)
    if refuses == runs or reason in ("quantized as a whole", "multiplies two activations", "INT8 and FP8"):
        operator = "linear"  # what is refused is the operator
    assert isinstance(legality(form, operator, runs), Legal)


# format, operator, a target on which it warns, a part of the warning, one on which it does not
WARNINGS = [
    ("w8a16", "linear", trt("11.4"), "no documented fused product", ORT),
    ("fp8_block128", "linear", trt("11.4"), "no documented fused product", ORT),
    ("fp8", "linear", ORT, "emulates FP8", trt("11.4")),
    ("fp8_pc_pt", "linear", trt("11.4", (8, 9)), "documented for Hopper only", trt("11.4", (9, 0))),
    ("fp8", "conv", trt("11.4"), "above 16 channels", ORT),
    ("int8_sq", "conv", trt("11.4"), "plain INT8", ORT),
    ("int8", "attention", trt("11.4"), "up to 512", ORT),
    ("fp8", "attention", trt("11.4", (8, 9)), "up to 3072", trt("11.4", (9, 0))),
    ("w8a16", "conv", ORT, "smaller on disk only", None),
    ("nvfp4", "linear", trt("11.4", (10, 0)), "divisible by 16", ORT),
    ("mxfp8", "linear", trt("11.4", (10, 0)), "divisible by 32", ORT),
    ("nvfp4", "linear", trt("10.8", (10, 0)), "from TensorRT 11.0 on only", trt("11.0", (10, 0))),
    ("nvfp4", "linear", ORT, "emulates FP4", trt("11.4", (10, 0))),
    ("mxfp8", "linear", ORT, "emulates FP8", trt("11.4", (10, 0))),
]


@pytest.mark.parametrize(("form", "operator", "warns", "warning", "silent"), WARNINGS)
def test_a_warning_is_given_where_it_holds(form, operator, warns, warning, silent) -> None:
    def said(where) -> str:
        verdict = legality(form, operator, where)
        assert isinstance(verdict, Legal)
        return " ".join(verdict.warnings)

    assert warning in said(warns)
    if silent is not None:
        assert warning not in said(silent)


@pytest.mark.parametrize(("size", "warned"), [(32, True), (64, False), (128, False), (256, True)])
def test_tensorrt_documents_two_block_sizes_of_int4(size: int, warned: bool) -> None:
    said = legality("int4", "linear", trt("11.4"), block_size=size)
    assert isinstance(said, Legal)
    assert bool(said.warnings) == warned
    assert legality("int4", "linear", ORT, block_size=size) == Legal()


def test_every_format_runs_for_linear_layers_somewhere() -> None:
    somewhere = [ORT, trt("11.4", (10, 0))]
    for form in FORMATS:
        assert any(isinstance(legality(form, "linear", where), Legal) for where in somewhere), form


def test_what_needs_pytorch_is_what_the_calibrator_of_onnx_models_refuses() -> None:
    calibrator = pytest.importorskip("trtbuild.backends.modelopt_onnx.calibrator")
    assert TORCH_ONLY.keys() == calibrator.REFUSED.keys()


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_can_be_written(form) -> None:
    insertion = pytest.importorskip("trtbuild.graph.insertion")
    float32 = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    x = onnx_ir.Value(name="x", type=float32, shape=onnx_ir.Shape([4, 128]))
    weight = onnx_ir.tensor(np.ones((128, 128), np.float32), name="w")
    w = onnx_ir.Value(name="w", type=float32, shape=weight.shape, const_value=weight)
    product = onnx_ir.Node("", "MatMul", [x, w], name="fc/MatMul")
    graph = onnx_ir.Graph([x], product.outputs, nodes=[product], initializers=[w], opset_imports={"": 23})
    block = FORMATS[form].block or 16
    shape = {"block": (128, 128 // block), "tile": (128, 1)}.get(FORMATS[form].granularity, (128,))
    numbers = ModuleQuantization(form, np.ones(shape, np.float32), block_size=block, input_amax=np.float32(1))
    coverage = insertion.insert(onnx_ir.Model(graph, ir_version=10), Plan({"fc": numbers}))
    assert [layer.inserted for layer in coverage.layers] == [True], coverage.layers


def test_an_unknown_gpu_refuses_nothing_by_itself() -> None:
    assert isinstance(legality("nvfp4", "linear", trt("11.4", None)), Legal)


def test_check_refuses_a_format_only_where_none_of_the_operators_runs() -> None:
    found = check(["int4_awq"], "tensorrt", "11.4", (9, 0), operators=("linear", "conv"))
    assert [(one.severity, one.operator) for one in found] == [("warning", "conv")]
    assert found[0].hint == "conv stays in high precision"
    found = check(["nvfp4", "int8"], "tensorrt", "11.4", (9, 0))
    assert [(one.format, one.severity) for one in found] == [("nvfp4", "error")]
    assert "fp8" in found[0].hint
    assert check(["int8", "int8_sq", "w8a16", "int4_awq"], "onnxruntime", None, None) == []


@pytest.mark.parametrize(
    ("form", "precision", "opset"),
    [
        ("int8", "fp32", 13),
        ("int8", "fp16", 19),
        ("fp8", "fp32", 19),
        ("int4_awq", "fp32", 21),
        ("fp8_block128", "fp16", 21),
    ],
)
def test_each_format_needs_its_opset(form, precision, opset) -> None:
    assert least_opset(form, precision=precision) == opset
    where = ("tensorrt", "11.4", (10, 0))
    assert not [one for one in check([form], *where, opset=opset, precision=precision) if one.severity == "error"]
    (found, *_) = check([form], *where, opset=opset - 1, precision=precision)
    assert (found.severity, found.hint) == ("error", f"export: {{opset: {opset}}}")


def test_fp4_needs_the_newest_opset() -> None:
    assert least_opset("nvfp4", precision="fp16") == 23


def test_old_tensorrt_reads_old_opsets() -> None:
    assert (greatest_opset((8, 6)), greatest_opset((10, 3)), greatest_opset((11, 4))) == (18, None, 25)
    (found,) = check(["int8"], "tensorrt", "8.6", (9, 0), opset=21)
    assert "opsets up to 18" in found.message
    assert check(["int8"], "tensorrt", "8.6", (9, 0), opset=18) == []


@pytest.mark.parametrize(("backend", "version"), [("tensorrt", "eleven"), ("tensorrt", "11"), ("openvino", None)])
def test_a_target_that_is_none(backend: str, version: str | None) -> None:
    with pytest.raises(RecipeError):
        target(backend, version)


def test_the_whole_matrix_takes_milliseconds() -> None:
    began = time.process_time()
    for version in ("8.6", "10.3", "10.16", "11.4"):
        for sm in ((7, 5), (8, 0), (8, 9), (9, 0), (10, 0)):
            check(FORMATS, "tensorrt", version, sm, operators=("linear", "conv", "attention"))
    assert time.process_time() - began < 0.2  # 720 questions
