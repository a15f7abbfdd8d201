"""What the ONNX parser of TensorRT 8.6 takes, by its source: builtin_op_importers.cpp of onnx-tensorrt, 8.6-EA."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from trtbuild.graph.initializers import constant
from trtbuild.graph.rewriting import numbers

_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Identity If ImageScaler
InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop
LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero
Not OneHot Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round ScaledTanh Scan Scatter
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth
Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
"""Every operator that has an importer; it looks at the name alone, not at the domain."""

TYPES = frozenset(
    getattr(ir.DataType, name) for name in ("DOUBLE", "FLOAT", "FLOAT16", "INT8", "UINT8", "BOOL", "INT32", "INT64")
)
"""Element types that it converts, DOUBLE to FLOAT and INT64 to INT32."""

_CONSTANT_INPUT = {"Slice": (3, "axes"), "Squeeze": (1, "axes"), "Unsqueeze": (1, "axes"), "CumSum": (1, "axis")}
_ONE_OUTPUT = ("MaxPool", "LayerNormalization", "BatchNormalization", "RoiAlign")
_GREATEST_INT = 2**31 - 1
_CLAMPED = {"Slice": (1, 2), "Clip": (1, 2), "Min": (0, 1), "Max": (0, 1)}
"""Inputs in which a number beyond 32 bits only says `without end`, and may be clamped."""


def refusal(node: ir.Node, plugins: Collection[str]) -> str | None:
    """In words, why the parser cannot take a node, or would take it for something else; None where it can."""
    if node.op_type in plugins:
        return None
    if node.op_type not in OPERATORS:
        return "its parser has no such operator, and no plugin for it is loaded"
    return (
        _unknown_type(node)
        or _not_constant(node)
        or _beyond_32_bits(node)
        or (_quantization(node) if node.op_type in ("QuantizeLinear", "DequantizeLinear") else _ignored(node))
    )


def _unknown_type(node: ir.Node) -> str | None:
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    for value in values:
        if value.dtype is not None and value.dtype not in TYPES:
            return f"tensor {value.name!r} is {value.dtype}, and this TensorRT has FP32, FP16, INT8, INT32 and BOOL"
    if node.op_type == "Cast" and (to := ir.DataType(node.attributes.get_int("to", 1))) not in TYPES:
        return f"it casts to {to}, and this TensorRT has FP32, FP16, INT8, INT32 and BOOL"
    return None


def _not_constant(node: ir.Node) -> str | None:
    index, role = _CONSTANT_INPUT.get(node.op_type, (0, ""))
    if not role or len(node.inputs) <= index or node.inputs[index] is None:
        return None
    return None if numbers(node.inputs[index]) is not None else f"its {role} must be constant here, and are computed"


def _beyond_32_bits(node: ir.Node) -> str | None:
    for index, value in enumerate(node.inputs):
        tensor = constant(value)
        if tensor is None or tensor.dtype != ir.DataType.INT64 or index in _CLAMPED.get(node.op_type, ()):
            continue
        if tensor.size and int(np.abs(tensor.numpy().astype(np.float64)).max()) > _GREATEST_INT:
            return f"constant {tensor.name!r} holds integers beyond 32 bits, which would be clamped"
    return None


def _ignored(node: ir.Node) -> str | None:
    """What it reads over, and would compute something else without."""
    used = [index for index, value in enumerate(node.outputs) if value.uses() or value.is_graph_output()]
    if node.op_type in _ONE_OUTPUT and any(index > 0 for index in used):
        return f"only its first output is there, and output {max(used)} is read"
    if node.op_type.startswith("Scatter") and node.attributes.get_string("reduction", "none") != "none":
        return f"its reduction {node.attributes.get_string('reduction', '')!r} would be ignored"
    if node.op_type == "Shape" and (node.attributes.get("start") or node.attributes.get("end")):
        return "its start and end would be ignored"
    return None


def _quantization(node: ir.Node) -> str | None:
    data, scale, zero = (*node.inputs, None)[:3]
    if node.op_type == "DequantizeLinear" and data is not None and data.dtype not in (None, ir.DataType.INT8):
        return f"it dequantizes {data.dtype}, and INT8 alone can be: leave biases in floats, quantize symmetrically"
    factor = constant(scale)
    if factor is None or factor.dtype != ir.DataType.FLOAT or not np.all(factor.numpy() > 0):
        return "its scale is no constant of float32, or not positive"
    if factor.size > 1 and not _of_a_constant(data):
        return "it has a scale for each channel of an activation, which may have one for the tensor"
    return _zero_point(constant(zero), factor.size)


def _zero_point(shift: ir.TensorProtocol | None, scales: int) -> str | None:
    if shift is None or shift.dtype != ir.DataType.INT8:
        return "it has no constant zero point of INT8, so its codes would be of another type"
    if np.any(shift.numpy()) or shift.size != scales:
        return "its zero points are not as many zeros as it has scales: quantize symmetrically"
    return None


def _of_a_constant(value: ir.Value | None) -> bool:
    """Whether a tensor is a constant, or the codes of one."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "QuantizeLinear":
        value = node.inputs[0]
    return constant(value) is not None
