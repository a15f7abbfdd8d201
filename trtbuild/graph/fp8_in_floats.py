"""FP8 activations in float arithmetic: the same rounding, for a processor without FP8 instructions.

ONNX Runtime's CPU kernels convert to and from FP8 one number at a time, and its fusions take an FP8 Q/DQ pair for an
INT8 one: they give products without a kernel, and remove a ReLU before a QuantizeLinear as if FP8 could not be
negative.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtbuild.graph import initializers
from trtbuild.graph.float_rounding import E4M3, Steps


def round_activations(model: ir.Model) -> int:
    """Replace each QuantizeLinear to FP8 E4M3 with one scale, and its DequantizeLinears, in place; returns how many.

    The numbers stay the same to the last bit, ties and saturation included. FP8 weights are left as they are.
    """
    graph, rewritten = model.graph, 0
    for node in list(graph):
        if node.op_type != "QuantizeLinear" or not _is_fp8_activation(node):
            continue
        readers = [usage.node for usage in node.outputs[0].uses()]
        value, scale = node.inputs[:2]
        assert value is not None
        assert scale is not None
        output = _rounded(graph, node, value, scale)
        for reader in readers:
            old = reader.outputs[0]
            old.replace_all_uses_with(output, replace_graph_outputs=True)
            graph.remove(reader, safe=True)
        graph.remove(node, safe=True)
        rewritten += 1
    initializers.drop_unused(graph)
    return rewritten


def _is_fp8_activation(node: ir.Node) -> bool:
    stored = node.outputs[0]
    readers = [usage.node for usage in stored.uses()]
    scale = initializers.constant(node.inputs[1])
    return (
        _stored_type(node) == ir.DataType.FLOAT8E4M3FN
        and initializers.constant(node.inputs[0]) is None
        and scale is not None
        and scale.size == 1
        and bool(readers)
        and not stored.is_graph_output()
        and all(reader.op_type == "DequantizeLinear" and _same_scale(reader, node) for reader in readers)
    )


def _stored_type(node: ir.Node) -> ir.DataType | None:
    zero = initializers.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if zero is not None:
        return zero.dtype
    asked = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(asked) if asked else node.outputs[0].dtype


def _same_scale(reader: ir.Node, quantizer: ir.Node) -> bool:
    if reader.inputs[1] is quantizer.inputs[1]:
        return True
    ours, its = initializers.constant(quantizer.inputs[1]), initializers.constant(reader.inputs[1])
    return (
        ours is not None
        and its is not None
        and its.dtype == ours.dtype
        and np.array_equal(its.numpy().reshape(-1), ours.numpy().reshape(-1))
    )


def _rounded(graph: ir.Graph, quantizer: ir.Node, value: ir.Value, scale: ir.Value) -> ir.Value:
    """The tensor that the DequantizeLinears behind `quantizer` give, computed before it in float32."""
    tensor = initializers.constant(scale)
    assert tensor is not None
    steps = Steps(graph, quantizer, E4M3)
    is_float32 = tensor.dtype == ir.DataType.FLOAT
    factor = steps.number("scale", float(tensor.numpy().reshape(())))
    source = value if is_float32 else steps.add("Cast", value, suffix="ToFloat", to=int(ir.DataType.FLOAT))
    result = steps.add("Mul", steps.codes(steps.add("Div", source, factor)), factor, suffix="Rounded")
    return result if is_float32 else steps.cast(result, tensor.dtype)
