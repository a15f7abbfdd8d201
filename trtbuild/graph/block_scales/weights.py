"""A weight in blocks in the graph: packed codes and their scales, dequantized as ModelOpt's exporters spell it.

The codes are [out, in], blocks along the last axis; a product that wants W [in, out] reads them through a Transpose.
NVFP4's two DequantizeLinears compute in float32, so a graph of 16-bit floats casts what they give. TensorRT is said to
take all of this into the product: it is what ModelOpt gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers
from trtbuild.graph.block_scales import codes
from trtbuild.graph.block_scales.operators import MXFP8_DEQUANTIZE
from trtbuild.graph.initializers import constant
from trtbuild.graph.layers import Layer
from trtbuild.graph.naming import Names


def write(graph: ir.Graph, layer: Layer, names: Names) -> None:
    """Quantize a layer's weight, in place."""
    tensor = constant(layer.weight)
    assert tensor is not None
    dequantized = _nvfp4 if layer.traits.weight == "fp4" else _mxfp8
    output = dequantized(graph, layer, tensor.dtype, names)
    before = layer.nodes[0]
    if layer.axis == 1:
        name = names.unique(f"{layer.module}/Transpose_weight")
        output = add(graph, before, "Transpose", [output], name, output.dtype, [ir.AttrInt64s("perm", [1, 0])])
        output.shape = layer.weight.shape
    if output.dtype != tensor.dtype:
        output = cast(graph, before, output, tensor.dtype, names.unique(f"{layer.module}/Cast_weight"))
    for node in layer.nodes:
        node.replace_input_with(1, output)


def add(
    graph: ir.Graph,
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType | None,
    attributes: Sequence[ir.Attr] = (),
) -> ir.Value:
    """The output, of the first input's shape, of a new standard node before another."""
    output = ir.Value(name=f"{name}:0", type=ir.TensorType(dtype or ir.DataType.FLOAT), shape=inputs[0].shape)
    graph.insert_before(before, ir.Node("", op_type, inputs, attributes, outputs=[output], name=name))
    return output


def cast(graph: ir.Graph, before: ir.Node, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    """A value in another type."""
    return add(graph, before, "Cast", [value], name, dtype, [ir.AttrInt64("to", int(dtype))])


def dequantized_nvfp4(
    graph: ir.Graph,
    before: ir.Node,
    stored: ir.Value,
    scales: ir.Value,
    name: str,
) -> ir.Value:
    """E2M1 codes times the float32 scales of their blocks of 16 along the last axis."""
    attributes = [ir.AttrInt64("axis", -1), ir.AttrInt64("block_size", 16)]
    return add(graph, before, "DequantizeLinear", [stored, scales], name, ir.DataType.FLOAT, attributes)


def _nvfp4(graph: ir.Graph, layer: Layer, _: ir.DataType, names: Names) -> ir.Value:
    found, before, module = codes.nvfp4(*layer.scaled()), layer.nodes[0], layer.module
    stored = _initializers(graph, module, {"codes": found.codes, "block_scales": found.scales, "scale": found.scale})
    name = names.unique(f"{module}/DequantizeLinear_weight_scales")
    scales = add(graph, before, "DequantizeLinear", [stored[1], stored[2]], name, ir.DataType.FLOAT)
    return dequantized_nvfp4(graph, before, stored[0], scales, names.unique(f"{module}/DequantizeLinear_weight"))


def _mxfp8(graph: ir.Graph, layer: Layer, dtype: ir.DataType, names: Names) -> ir.Value:
    found, module = codes.mxfp8(*layer.scaled()), layer.module
    stored = _initializers(graph, module, {"codes": found.codes, "block_scales": found.exponents})
    name = names.unique(f"{module}/{MXFP8_DEQUANTIZE.name}_weight")
    return dequantized_mxfp8(graph, layer.nodes[0], stored[0], stored[1], dtype, name)


def dequantized_mxfp8(
    graph: ir.Graph, before: ir.Node, stored: ir.Value, exponents: ir.Value, dtype: ir.DataType, name: str
) -> ir.Value:
    """E4M3 codes times the powers of two of their blocks of 32 along the last axis, in the graph's own type."""
    node = MXFP8_DEQUANTIZE.node(name, [stored, exponents], block_size=32, output_dtype=int(dtype))
    (output,) = node.outputs
    output.name, output.type, output.shape = f"{name}:0", ir.TensorType(dtype), stored.shape
    graph.insert_before(before, node)
    return output


def _initializers(graph: ir.Graph, module: str, arrays: dict[str, Array]) -> list[ir.Value]:
    return [initializers.add(graph, f"{module}.weight_{what}", array) for what, array in arrays.items()]
