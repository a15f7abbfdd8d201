"""FP8 activations in float arithmetic: the same rounding, for a processor without FP8 instructions.

ONNX Runtime's CPU kernels convert to and from FP8 one number at a time, and its fusions take an FP8 Q/DQ pair for an
INT8 one: they give products without a kernel, and remove a ReLU before a QuantizeLinear as if FP8 could not be
negative. Rounding to E4M3 takes a handful of float operations that are exact:

* Above 2^-6, E4M3 keeps 4 significant bits. Veltkamp's splitting (T. J. Dekker, "A floating-point technique for
  extending the available precision", 1971) rounds a float32 to its leading 24 - s bits: with a = (2^s + 1) x, that is
  a - (a - x); here s = 20.
* Below, it has the fixed step 2^-9: adding and subtracting 1.5 * 2^14, whose neighbours lie 2^-9 apart, rounds to it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtbuild.core.formats import GREATEST
from trtbuild.graph import initializers

_SPLIT = 2.0**20 + 1
_LEAST_NORMAL = 2.0**-6
_MAGIC = 1.5 * 2**14
_STEP = ".ToE4M3."
"""Stands in the name of each node added, between the QuantizeLinear's name and the step's."""
_ROUNDED = tuple(f"{_STEP}{step}" for step in ("Codes", "Rounded", "FromFloat"))


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


def is_rounded(node: ir.Node) -> bool:
    """Whether a node's output is a tensor rounded to FP8 by this module, scaled back or not."""
    return (node.name or "").endswith(_ROUNDED)


def is_rounding(node: ir.Node) -> bool:
    """Whether a node is a step of such a rounding."""
    return _STEP in (node.name or "")


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
    name = quantizer.name or "QuantizeLinear"

    def add(op_type: str, *inputs: ir.Value, suffix: str = "", **attributes: int) -> ir.Value:
        label = f"{name}{_STEP}{suffix or op_type}"
        output = ir.Value(name=f"{label}:0", type=ir.TensorType(ir.DataType.FLOAT), shape=value.shape)
        if op_type == "Less":
            output.type = ir.TensorType(ir.DataType.BOOL)
        extra = [ir.AttrInt64(key, number) for key, number in attributes.items()]
        graph.insert_before(quantizer, ir.Node("", op_type, inputs, extra, outputs=[output], name=label))
        return output

    def number(suffix: str, constant: float) -> ir.Value:
        return initializers.add(graph, f"{name}.{suffix}", np.array(constant, np.float32))

    is_float32 = tensor.dtype == ir.DataType.FLOAT
    factor = number("scale", float(tensor.numpy().reshape(())))
    source = value if is_float32 else add("Cast", value, suffix="ToFloat", to=int(ir.DataType.FLOAT))
    greatest = GREATEST["fp8"]
    scaled = add("Clip", add("Div", source, factor), number("least", -greatest), number("greatest", greatest))
    split = add("Mul", scaled, number("split", _SPLIT), suffix="Split")
    normal = add("Sub", split, add("Sub", split, scaled, suffix="Rest"), suffix="Normal")
    magic = number("magic", _MAGIC)
    subnormal = add("Sub", add("Add", scaled, magic), magic, suffix="Subnormal")
    small = add("Less", add("Abs", scaled), number("least_normal", _LEAST_NORMAL))
    rounded = add("Where", small, subnormal, normal, suffix="Codes")
    result = add("Mul", rounded, factor, suffix="Rounded")
    if not is_float32:
        result = add("Cast", result, suffix="FromFloat", to=int(tensor.dtype))
        result.type = ir.TensorType(tensor.dtype)
    return result
