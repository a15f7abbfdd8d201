"""The element type of every value, also where the graph declares none: what types alone can tell."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

Types = dict[ir.Value, ir.DataType]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})

_FIXED = {"Shape": ir.DataType.INT64, "Size": ir.DataType.INT64, "NonZero": ir.DataType.INT64}
_TRUTHS = {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf"}
_SECOND = {"Where"}
"""Operators whose output has the type of their second input; nearly every other's has that of the first."""


def element_types(nodes: Iterable[ir.Node]) -> Types:
    """Types by value, for the nodes in topological order and all they read; a value of unknown type is absent.

    Where a Cast or a Q/DQ node fixes a type, that one counts, whatever the graph declares.
    """
    types: Types = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in types and (known := _declared(value)) is not None:
                types[value] = known
        for output in node.outputs:
            found = _written(node, types) or _declared(output) or _inherited(node, types)
            if found is not None:
                types[output] = found
    return types


def stored_type(node: ir.Node, types: Types) -> ir.DataType:
    """What a QuantizeLinear gives: its zero point's type, else `output_dtype`, else UINT8 as ONNX says."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and zero in types:
        return types[zero]
    return attribute_type(node, "output_dtype") or ir.DataType.UINT8


def attribute_type(node: ir.Node, name: str) -> ir.DataType | None:
    """An attribute that names a type; None where it is absent or 0."""
    attribute = node.attributes.get(name)
    number = attribute.as_int() if attribute is not None else 0
    return ir.DataType(number) if number else None


def _written(node: ir.Node, types: Types) -> ir.DataType | None:
    """The type that the node itself fixes for its first output."""
    if node.op_type == "QuantizeLinear":
        return stored_type(node, types)
    if node.op_type == "DequantizeLinear":
        scale = node.inputs[1]
        return attribute_type(node, "output_dtype") or (types.get(scale) if scale is not None else None)
    if node.op_type == "Cast":
        return attribute_type(node, "to")
    if node.op_type == "Constant" and (value := node.attributes.get("value")) is not None:
        return value.as_tensor().dtype
    if node.op_type in _TRUTHS:
        return ir.DataType.BOOL
    return _FIXED.get(node.op_type)


def _inherited(node: ir.Node, types: Types) -> ir.DataType | None:
    if node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    first = node.inputs[1 if node.op_type in _SECOND and len(node.inputs) > 1 else 0]
    return types.get(first) if first is not None else None


def _declared(value: ir.Value) -> ir.DataType | None:
    tensor = value.const_value
    return tensor.dtype if tensor is not None else value.dtype
