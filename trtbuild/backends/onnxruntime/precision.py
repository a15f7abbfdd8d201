"""What a fused graph multiplies in, read from its nodes: what is stored, and which kernel takes it.

int8                              an integer kernel
int8 weights                      a float kernel, weights dequantized on the way
fp8 in float32                    a float kernel for numbers of FP8: both operands are rounded, no FP8 is multiplied
int4 weights, fp8 activations     the same, with two types
int8 table                        a Gather of codes
float32                           nothing is quantized, whatever the graph once asked for
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from trtbuild.core.roles import Precisions
from trtbuild.graph.block_scales.in_floats import FROM_E2M1
from trtbuild.graph.float_rounding import is_step, rounded_type
from trtbuild.graph.initializers import constant

_INTEGER_KERNELS = {
    "MatMulIntegerToFloat": (0, 1),
    "MatMulInteger": (0, 1),
    "ConvInteger": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "QLinearMatMul": (0, 3),
    "QLinearConv": (0, 3),
    "QGemm": (0, 3),
}
"""Where each integer kernel takes its two operands."""
_FLOAT_KERNELS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv", "ConvTranspose"}
_CARRIERS = {"Cast", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "ReorderInput"}
"""What moves numbers and keeps them."""
_TYPES = {
    "INT8": "int8",
    "UINT8": "int8",
    "INT4": "int4",
    "UINT4": "int4",
    "FLOAT8E4M3FN": "fp8",
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "BFLOAT16": "bfloat16",
}
_AROUND_SOFTMAX = _CARRIERS | {"Add", "Sub", "Mul", "Div", "Where", "Clip", "QuantizeLinear", "DequantizeLinear"}
_ADDED_BY_FUSIONS = re.compile(r"(/MatMulAddFusion|/MatMulScaleFusion/?|/MatmulTransposeFusion/?|_token_\d+)+$")


def precisions(graph: ir.Graph) -> Precisions:
    """The precision of each product with a constant and of each gathered table of codes, and of each attention."""
    layers, attention = {}, {}
    for node in graph:
        name = named_before_fusions(node.name or "")
        if product := _product(node):
            if product.has_weight:
                layers[name] = product.precision
        elif node.op_type == "Gather" and _type(node.inputs[0]) == "int8":
            layers[name.removesuffix("_codes")] = "int8 table"
        elif node.op_type == "Softmax" and (ran := _attention(node)):
            attention[name] = ran
    return Precisions(layers, attention)


def named_before_fusions(name: str) -> str:
    """The name of a node without what ONNX Runtime's fusions hang on it."""
    return _ADDED_BY_FUSIONS.sub("", name)


@dataclass(frozen=True)
class _Product:
    precision: str
    has_weight: bool


@dataclass(frozen=True)
class _Operand:
    stored: str | None
    """The type that its numbers were rounded to; None where they were not."""
    floats: str | None
    """The float type they are multiplied in, where it is known."""
    is_constant: bool


def _product(node: ir.Node) -> _Product | None:
    """A node as a product of two tensors, or None where it is none."""
    if node.op_type == "MatMulNBits":
        return _Product(_block_wise(node), has_weight=True)
    if node.op_type in _INTEGER_KERNELS:
        operands = [_operand(node.inputs[index]) for index in _INTEGER_KERNELS[node.op_type]]
        return _Product("int8", any(operand.is_constant for operand in operands))
    if node.op_type not in _FLOAT_KERNELS:
        return None
    first, second = (_operand(value) for value in node.inputs[:2])
    floats = first.floats or second.floats or _type(node.outputs[0]) or "float"
    if not first.is_constant and not second.is_constant:
        return _Product(_of_computed(first.stored, second.stored, floats), has_weight=False)
    weight, activation = (second, first) if second.is_constant else (first, second)
    return _Product(_of_weight(weight.stored, activation.stored, floats), has_weight=True)


def _of_weight(weight: str | None, activation: str | None, floats: str) -> str:
    if weight is None:
        return floats
    if activation is None:
        return f"{weight} weights"
    return f"{weight} in {floats}" if weight == activation else f"{weight} weights, {activation} activations"


def _of_computed(first: str | None, second: str | None, floats: str) -> str:
    if first == second:
        return floats if first is None else f"{first} in {floats}"
    return f"{first or floats} times {second or floats}"


def _block_wise(node: ir.Node) -> str:
    """A product of packed weights, whose inputs stay floats unless the kernel was told that INT8 will do."""
    weights = f"int{node.attributes.get_int('bits', 4)}"
    if node.attributes.get_int("accuracy_level", 0) == 4:
        return f"{weights} weights, inputs rounded to int8"
    return _of_weight(weights, _operand(node.inputs[0]).stored, "float32")


def _operand(value: ir.Value | None) -> _Operand:
    """Where an operand's numbers come from, followed back through what only moves them."""
    floats = _type(value)
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "DequantizeLinear":
            codes = node.inputs[0]
            if _is_gathered(codes):
                break  # rows of a table in INT8, which nobody rounded for this product
            stored = "fp4" if (node.name or "").endswith(FROM_E2M1) else _stored(codes)
            return _Operand(stored, floats or _type(node.inputs[1]), _is_constant(codes))
        if (rounded := rounded_type(node)) is not None:
            return _Operand(rounded, floats or "float32", is_constant=False)
        if node.op_type not in _CARRIERS:
            break
        if node.op_type == "Cast":
            floats = floats or _TYPES.get(ir.DataType(node.attributes.get_int("to", 1)).name)
        value = node.inputs[0]
        floats = floats or _type(value)
    return _Operand(None, floats, constant(value) is not None)


def _stored(codes: ir.Value | None) -> str | None:
    """The type of codes. ONNX Runtime records none between nodes, but the QuantizeLinear they come from says it."""
    while codes is not None and _type(codes) is None and (node := codes.producer()) is not None:
        if node.op_type == "QuantizeLinear":
            asked = node.attributes.get_int("output_dtype", 0) or int(ir.DataType.UINT8)  # UINT8 where it says nothing
            zero = node.inputs[2] if len(node.inputs) > 2 else None
            return _type(zero) or _TYPES.get(ir.DataType(asked).name)
        codes = node.inputs[0]
    return _type(codes)


def _is_constant(value: ir.Value | None) -> bool:
    return constant(_carried(value)) is not None


def _is_gathered(codes: ir.Value | None) -> bool:
    """Whether codes are rows of a constant table. ONNX Runtime repeats a DequantizeLinear behind what moves its
    numbers, with a QuantizeLinear of the same scale in front, which changes none of them."""
    carried = _carried(codes)
    node = carried.producer() if carried is not None else None
    if node is None:
        return False
    if node.op_type == "QuantizeLinear":
        floats = _carried(node.inputs[0])
        before = floats.producer() if floats is not None else None
        if before is None or before.op_type != "DequantizeLinear" or before.inputs[1] is not node.inputs[1]:
            return False
        return _is_gathered(before.inputs[0])
    return node.op_type == "Gather" and _is_constant(node.inputs[0])


def _carried(value: ir.Value | None) -> ir.Value | None:
    """The value that carriers brought here."""
    while value is not None and (node := value.producer()) is not None and node.op_type in _CARRIERS:
        value = node.inputs[0]
    return value


def _attention(softmax: ir.Node) -> str | None:
    """The precision of the products before and behind a softmax; None where there are not both."""
    scores = next(_backward(softmax.inputs[0]), None)
    context = next(_forward(softmax.outputs[0]), None)
    if scores is None or context is None:
        return None
    return scores if scores == context else f"{scores}, then {context}"


def _backward(value: ir.Value | None) -> Iterator[str]:
    node = value.producer() if value is not None else None
    if node is None:
        return
    if (product := _product(node)) is not None:
        if not product.has_weight:
            yield product.precision
    elif node.op_type in _AROUND_SOFTMAX or is_step(node):
        for read in node.inputs:
            yield from _backward(read)


def _forward(value: ir.Value) -> Iterator[str]:
    for usage in value.uses():
        node = usage.node
        if (product := _product(node)) is not None:
            if not product.has_weight:
                yield product.precision
        elif node.op_type in _AROUND_SOFTMAX or is_step(node):
            for output in node.outputs:
                yield from _forward(output)


def _type(value: ir.Value | None) -> str | None:
    return None if value is None or value.dtype is None else _TYPES.get(value.dtype.name)
