"""Weights of layers in the graph: as codes behind a DequantizeLinear, or as floats for a target that wants them so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtbuild.core.dialects import Dialect
from trtbuild.core.errors import ModelError
from trtbuild.core.quantization import values_of
from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers, quantize
from trtbuild.graph.block_scales import weights as in_blocks
from trtbuild.graph.initializers import constant
from trtbuild.graph.layers import Layer
from trtbuild.graph.linear import is_plain, split_gemm
from trtbuild.graph.naming import Names


def check(layers: list[Layer], dialect: Dialect) -> None:
    """Raise ModelError where the target's spelling of weights cannot say a layer's type."""
    for layer in layers:
        if dialect.weights == "quantize_dequantize" and layer.traits.weight != "int8":
            raise ModelError(
                f"{layer.module}: {dialect.name} quantizes INT8 weights alone, and {layer.numbers.format} has "
                f"{layer.traits.weight.upper()} weights",
                hint="use int8, int8_sq or w8a16, or build for a newer target",
            )


def write(graph: ir.Graph, layer: Layer, dialect: Dialect, names: Names) -> None:
    """Quantize a layer's weight, in place, as the plan and smoothing left it."""
    if layer.traits.dynamic:
        in_blocks.write(graph, layer, names)
        return
    axis, nodes = layer.axis, layer.nodes
    matrix, amax = layer.scaled()
    tensor = constant(layer.weight)
    assert tensor is not None
    scale = quantize.scales(amax, layer.traits.weight, initializers.float_type(tensor))
    if layer.block_size and all(map(is_plain, nodes)):
        axis, nodes = 1, [split_gemm(graph, node, names, layer.module) for node in nodes]
    if dialect.weights == "quantize_dequantize":
        output = _through_integers(graph, layer, nodes[0], matrix, scale, names)
    else:
        stored = np.ascontiguousarray(np.moveaxis(_codes(layer, matrix, scale), 0, axis))
        output = quantize.dequantize(
            graph,
            nodes[0],
            initializers.add(graph, f"{layer.module}.weight_codes", stored),
            np.ascontiguousarray(scale.T) if axis == 1 else scale,
            name=names.unique(f"{layer.module}/DequantizeLinear_weight"),
            axis=_scale_axis(axis, scale),
            block_size=layer.block_size,
        )
    for node in nodes:
        node.replace_input_with(1, output)


def _codes(layer: Layer, matrix: Array, scale: Array) -> Array:
    """The plan's own codes where it has them, else the weight rounded."""
    if layer.numbers.weight_codes is not None:
        kind = layer.traits.weight
        return values_of(layer.numbers.weight_codes, kind).astype(quantize.STORED[kind])
    return quantize.codes(matrix, layer.expanded(scale), layer.traits.weight)


def _scale_axis(axis: int, scale: Array) -> int | None:
    """The axis along which scales change: that of output channels, or with blocks that of inputs; None per tensor."""
    return {0: None, 1: axis, 2: 1 - axis}[scale.ndim]


def _through_integers(
    graph: ir.Graph, layer: Layer, before: ir.Node, matrix: Array, scale: Array, names: Names
) -> ir.Value:
    """The float weight behind QuantizeLinear and DequantizeLinear, which the target folds into codes."""
    tensor = constant(layer.weight)
    assert tensor is not None
    if layer.numbers.weight_codes is not None:
        matrix = _codes(layer, matrix, scale).astype(np.float32) * layer.expanded(scale).astype(np.float32)
    stored = np.moveaxis(matrix, 0, layer.axis).astype(initializers.float_type(tensor))
    floats = initializers.add(graph, f"{layer.module}.weight_to_quantize", np.ascontiguousarray(stored))
    axis = _scale_axis(layer.axis, scale)
    name = names.unique(f"{layer.module}/QuantizeLinear_weight")
    codes, factor, zero = quantize.quantize(graph, before, floats, scale, "int8", name=name, axis=axis)
    name = names.unique(f"{layer.module}/DequantizeLinear_weight")
    output = ir.Value(name=f"{name}:0", type=floats.type, shape=floats.shape)
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    graph.insert_before(
        before, ir.Node("", "DequantizeLinear", [codes, factor, zero], attributes, outputs=[output], name=name)
    )
    return output
