"""NVFP4 and MXFP8 in float arithmetic, for a processor without them: the numbers that TensorRT's operators spell.

ONNX Runtime knows neither E2M1 nor scales made at run time. Inputs are rounded by the operator's own body, with float32
steps in place of its last Cast. Weights become a standard DequantizeLinear: each E2M1 number is an E4M3 number, so that
NVFP4 codes take a byte here and none is changed.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers
from trtbuild.graph.block_scales.codes import BIAS
from trtbuild.graph.block_scales.operators import (
    DOMAIN,
    FP4_QUANTIZE,
    MXFP8_DEQUANTIZE,
    MXFP8_QUANTIZE,
    OPERATORS,
    Operator,
)
from trtbuild.graph.block_scales.weights import cast
from trtbuild.graph.float_rounding import E2M1, E4M3, Grid, Steps
from trtbuild.graph.initializers import constant

FROM_E2M1 = ".FromE2M1"
"""Ends the name of a DequantizeLinear whose E4M3 codes are a weight's E2M1 numbers."""

_ROUNDING: dict[str, tuple[Operator, Grid, str]] = {
    FP4_QUANTIZE.name: (FP4_QUANTIZE, E2M1, "whole"),
    MXFP8_QUANTIZE.name: (MXFP8_QUANTIZE, E4M3, "scale"),
}
"""By operator: the type of its codes, and what its body calls the scale to multiply them with."""


def compute_blocks_in_floats(model: ir.Model) -> int:
    """Replace TensorRT's operators and their dequantizers, in place; returns how many weights and inputs."""
    graph, rewritten = model.graph, 0
    for node in list(graph):
        if node.graph is None:  # went with another
            continue
        if node.domain == DOMAIN and node.op_type in _ROUNDING:
            _round_input(graph, node)
        elif node.domain == DOMAIN and node.op_type == MXFP8_DEQUANTIZE.name:
            _mxfp8_weight(graph, node)
        elif node.op_type == "DequantizeLinear" and _is_fp4(node.inputs[0]):
            _nvfp4_weight(graph, node)
        else:
            continue
        rewritten += 1
    if rewritten:
        for name in OPERATORS:
            model.functions.pop((DOMAIN, name, ""), None)
        model.opset_imports.pop(DOMAIN, None)
        initializers.drop_unused(graph)
    return rewritten


def _round_input(graph: ir.Graph, node: ir.Node) -> None:
    operator, grid, scale = _ROUNDING[node.op_type]
    steps = Steps(graph, node, grid)
    values = _inlined(graph, node, operator, steps.prefix)
    codes = steps.codes(values["ratio"])
    blocks = steps.add("Mul", codes, values[scale], suffix="Rounded")
    rounded = steps.add("Reshape", blocks, values["shape"])
    source = node.inputs[0]
    rounded.shape = source.shape if source is not None else None
    for reader in [usage.node for usage in node.outputs[0].uses()]:
        old = reader.outputs[0]
        new = rounded if old.dtype == ir.DataType.FLOAT else cast(graph, reader, rounded, _type(old), f"{reader.name}")
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(reader, safe=True)
    for reader in [usage.node for usage in node.outputs[1].uses()]:
        graph.remove(reader, safe=True)
    graph.remove(node, safe=True)


def _type(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype


def _inlined(graph: ir.Graph, node: ir.Node, operator: Operator, prefix: str) -> dict[str, ir.Value]:
    """The operator's body before the node, without what makes its codes; the body's values by their names there."""
    function = ir.from_proto(operator.function(opset=21))
    values = {name: value for name, value in zip(operator.inputs, node.inputs, strict=True) if value is not None}
    for step in function:
        (inner,) = step.outputs
        name = inner.name or ""
        if name in ("said", "together", "codes"):
            continue
        output = ir.Value(name=f"{prefix}{name}:0")
        inputs = [values[read.name or ""] for read in step.inputs if read is not None]
        attributes = list(step.attributes.values())
        copied = ir.Node("", step.op_type, inputs, attributes, outputs=[output], name=f"{prefix}{name}")
        graph.insert_before(node, copied)
        values[name] = output
    return values


def _is_fp4(value: ir.Value | None) -> bool:
    tensor = constant(value)
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT4E2M1


def _nvfp4_weight(graph: ir.Graph, node: ir.Node) -> None:
    codes, scales = _array(node.inputs[0]), node.inputs[1]
    inner = scales.producer() if scales is not None else None
    assert inner is not None
    block_scales = _array(inner.inputs[0]).astype(np.float32) * _array(inner.inputs[1])
    e4m3 = codes.astype(ml_dtypes.float8_e4m3fn)
    _dequantize(graph, node, e4m3, block_scales, 16, f"{node.name}{FROM_E2M1}")
    if not inner.outputs[0].uses():
        graph.remove(inner, safe=True)


def _mxfp8_weight(graph: ir.Graph, node: ir.Node) -> None:
    exponents = _array(node.inputs[1]).astype(np.float32) - BIAS
    name = (node.name or "").replace(MXFP8_DEQUANTIZE.name, "DequantizeLinear")
    _dequantize(graph, node, _array(node.inputs[0]), np.exp2(exponents), 32, name)


def _array(value: ir.Value | None) -> Array:
    tensor = constant(value)
    assert tensor is not None
    return np.asarray(tensor.numpy())


def _dequantize(graph: ir.Graph, node: ir.Node, codes: Array, scales: Array, block: int, name: str) -> None:
    """A standard DequantizeLinear for `node`; a Transpose behind it is done now, once."""
    old, last, axis = node.outputs[0], node, 1
    readers = [usage.node for usage in old.uses()]
    if len(readers) == 1 and readers[0].op_type == "Transpose" and not old.is_graph_output():
        codes, scales, last, axis = np.ascontiguousarray(codes.T), np.ascontiguousarray(scales.T), readers[0], 0
    stored = initializers.add(graph, f"{name}.codes", codes)
    factor = initializers.add(graph, f"{name}.scales", scales.astype(np.float32))
    output = ir.Value(name=f"{name}:0", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(codes.shape))
    attributes = [ir.AttrInt64("axis", axis), ir.AttrInt64("block_size", block)]
    graph.insert_before(
        node, ir.Node("", "DequantizeLinear", [stored, factor], attributes, outputs=[output], name=name)
    )
    wanted = last.outputs[0]
    if old.dtype not in (ir.DataType.FLOAT, None):
        output = cast(graph, node, output, _type(old), f"{name}.Cast")
    wanted.replace_all_uses_with(output, replace_graph_outputs=True)
    for gone in [last, node] if last is not node else [node]:
        graph.remove(gone, safe=True)
