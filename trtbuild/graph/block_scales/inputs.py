"""Inputs of layers in blocks: one operator for each tensor that scales it while the engine runs, however many read it.

Each reader gets a dequantizer of its own, as everywhere in a graph of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from trtbuild.core.formats import NumberType
from trtbuild.graph import initializers
from trtbuild.graph.block_scales import codes
from trtbuild.graph.block_scales.operators import FP4_QUANTIZE, MXFP8_QUANTIZE, Operator
from trtbuild.graph.block_scales.weights import add, cast, dequantized_mxfp8, dequantized_nvfp4
from trtbuild.graph.initializers import constant
from trtbuild.graph.layers import Layer
from trtbuild.graph.naming import Names


def write(graph: ir.Graph, layers: Sequence[Layer], names: Names) -> None:
    """Quantize what these layers read, in place; layers that read one tensor share its scale, their greatest."""
    order = {node: position for position, node in enumerate(graph)}
    reads = sorted(((layer, node) for layer in layers for node in layer.nodes), key=lambda read: order[read[1]])
    groups: dict[tuple[ir.Value, NumberType], list[tuple[Layer, ir.Node]]] = {}
    for layer, node in reads:
        value = node.inputs[0]
        assert value is not None
        groups.setdefault((value, layer.traits.weight), []).append((layer, node))
    for (value, kind), group in groups.items():
        (_nvfp4 if kind == "fp4" else _mxfp8)(graph, value, group, names)


def _nvfp4(graph: ir.Graph, value: ir.Value, group: list[tuple[Layer, ir.Node]], names: Names) -> None:
    module, first = group[0][0].module, group[0][1]
    amax = max(layer.input_amax or 0.0 for layer, _ in group)
    scale = initializers.add(graph, f"{module}.input_scale", codes.tensor_scale(amax))
    types = (ir.DataType.FLOAT4E2M1, ir.DataType.FLOAT8E4M3FN)
    attributes = {"block_size": 16, "scale_type": int(ir.DataType.FLOAT8E4M3FN)}
    stored, block_scales = _quantized(graph, FP4_QUANTIZE, [value, scale], types, attributes, (module, first), names)
    name = names.unique(f"{module}/DequantizeLinear_scales")
    scales = add(graph, first, "DequantizeLinear", [block_scales, scale], name, ir.DataType.FLOAT)
    for layer, node in group:
        name = names.unique(f"{layer.module}/DequantizeLinear")
        output = dequantized_nvfp4(graph, node, stored, scales, name)
        if (dtype := _dtype(layer)) != ir.DataType.FLOAT:
            output = cast(graph, node, output, dtype, names.unique(f"{layer.module}/Cast"))
        node.replace_input_with(0, output)


def _mxfp8(graph: ir.Graph, value: ir.Value, group: list[tuple[Layer, ir.Node]], names: Names) -> None:
    types = (ir.DataType.FLOAT8E4M3FN, ir.DataType.UINT8)
    attributes = {"block_size": 32, "output_dtype": int(ir.DataType.FLOAT8E4M3FN)}
    place = (group[0][0].module, group[0][1])
    stored, exponents = _quantized(graph, MXFP8_QUANTIZE, [value], types, attributes, place, names)
    for layer, node in group:
        name = names.unique(f"{layer.module}/TRT_MXFP8DequantizeLinear")
        node.replace_input_with(0, dequantized_mxfp8(graph, node, stored, exponents, _dtype(layer), name))


def _quantized(
    graph: ir.Graph,
    operator: Operator,
    inputs: list[ir.Value],
    types: tuple[ir.DataType, ir.DataType],
    attributes: dict[str, int],
    place: tuple[str, ir.Node],
    names: Names,
) -> tuple[ir.Value, ir.Value]:
    """Codes and scales of the first input, computed under a module's name before a node."""
    module, before = place
    node = operator.node(names.unique(f"{module}/{operator.name}"), inputs, **attributes)
    stored, scales = node.outputs
    shape = inputs[0].shape
    for output, dtype, suffix in zip(node.outputs, types, ("0", "1"), strict=True):
        output.name, output.type = f"{node.name}:{suffix}", ir.TensorType(dtype)
    stored.shape = shape
    if shape is not None and isinstance(width := shape[-1], int):
        scales.shape = ir.Shape([*shape[:-1], width // attributes["block_size"]])
    graph.insert_before(before, node)
    return stored, scales


def _dtype(layer: Layer) -> ir.DataType:
    tensor = constant(layer.weight)
    assert tensor is not None
    return tensor.dtype
