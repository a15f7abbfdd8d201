"""Operators that a processor has in float32 alone, in a graph of 16-bit floats.

ONNX Runtime spells Softmax and Gelu out where it has no 16-bit kernel for them: a softmax becomes five operators in
float32, an attention cannot be recognized any more, and both are several times slower than the float32 kernel.
"""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.graph.float_types import float_type

_OPERATORS = ("Softmax", "Gelu")
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def compute_in_float32(model: ir.Model) -> int:
    """Put each 16-bit Softmax and Gelu between Casts, in place; returns how many. Their outputs gain precision."""
    graph, rewritten = model.graph, 0
    for node in list(graph):
        value, output = node.inputs[0] if node.inputs else None, node.outputs[0]
        if node.op_type not in _OPERATORS or node.domain or value is None:
            continue
        found = float_type(value)
        dtype = None if found is None else ir.DataType.from_numpy(found)
        if dtype not in _HALVES:
            continue
        wide = _cast(graph, node, value, ir.DataType.FLOAT, f"{node.name}.ToFloat")
        result = ir.Value(name=f"{output.name}_float", type=ir.TensorType(ir.DataType.FLOAT), shape=output.shape)
        kernel = ir.Node("", node.op_type, [wide], list(node.attributes.values()), outputs=[result], name=node.name)
        graph.insert_before(node, kernel)
        narrow = _cast(graph, node, result, dtype, f"{node.name}.FromFloat")
        ir.convenience.replace_nodes_and_values(graph, node, [node], [], [output], [narrow])
        rewritten += 1
    return rewritten


def _cast(graph: ir.Graph, before: ir.Node, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    output = ir.Value(name=f"{name}:0", type=ir.TensorType(dtype), shape=value.shape)
    attributes = [ir.AttrInt64("to", int(dtype))]
    graph.insert_before(before, ir.Node("", "Cast", [value], attributes, outputs=[output], name=name))
    return output
