"""QuantizeLinear and DequantizeLinear as ONNX spells them: symmetric, one scale for a tensor, a channel or a block.

A scale has the float type of the tensor that it belongs to. TensorRT's parser inserts no Cast for it from opset 19 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from trtbuild.core.formats import GREATEST, NumberType
from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers
from trtbuild.graph.naming import Names

STORED: dict[NumberType, np.dtype[Any]] = {
    "int8": np.dtype(np.int8),
    "int4": np.dtype(ml_dtypes.int4),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
}
"""How NumPy holds the codes of each type that standard ONNX operators can say."""

LEAST_OPSET: dict[NumberType, int] = {"int8": 13, "fp8": 19, "int4": 21, "fp4": 21}
"""The first opset whose DequantizeLinear takes each type, with one scale for each channel; for FP4 the first from which
the graph's can be raised to OPSET_OF_FP4 as it is."""

OPSET_OF_FP4 = 23
"""The first opset with FLOAT4E2M1."""

LEAST_OPSET_OF_BLOCKS = 21
"""The first opset with `block_size`."""


def scales(amax: Array | float, number_type: NumberType, dtype: np.dtype[Any]) -> Array:
    """amax / greatest in the graph's type; never zero, where a channel is dead, and never infinite.

    A dead channel gets a tiny scale and codes of zero. FP16 ends at 65504.
    """
    least = 2.0**-20 if dtype == np.float16 else 2.0**-100
    greatest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]  # its one untyped function
    exact = np.asarray(amax, np.float32) / np.float32(GREATEST[number_type])
    return np.asarray(np.clip(exact, least, greatest)).astype(dtype)


def codes(matrix: Array, scale: Array, number_type: NumberType) -> Array:
    """matrix / scale, rounded half to even and clipped, in the type's own NumPy type. `scale` broadcasts.

    The scale is used as stored, after its rounding. Integers stay symmetric: [-127, 127] and [-7, 7].
    """
    greatest = np.float32(GREATEST[number_type])
    ratio = matrix / scale.astype(np.float32)
    # ml_dtypes rounds to FP8 half to even, but makes NaN of what is greater than 448: hence the clip.
    rounded = ratio if number_type == "fp8" else np.rint(ratio)
    return np.clip(rounded, -greatest, greatest).astype(STORED[number_type])


def dequantize(
    graph: ir.Graph,
    before: ir.Node,
    values: ir.Value,
    scale: Array,
    *,
    name: str,
    axis: int | None = None,
    block_size: int = 0,
) -> ir.Value:
    """A DequantizeLinear before a node; its zero point is left out, hence zero.

    `scale` is [] for the tensor, [channels] along `axis`, or with blocks of the tensor's rank.
    """
    factor = initializers.add(graph, f"{name}.scale", scale)
    output = ir.Value(name=f"{name}:0", type=ir.TensorType(ir.DataType.from_numpy(scale.dtype)), shape=values.shape)
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    if block_size:
        attributes.append(ir.AttrInt64("block_size", block_size))
    graph.insert_before(
        before, ir.Node("", "DequantizeLinear", [values, factor], attributes, outputs=[output], name=name)
    )
    return output


def quantize(
    graph: ir.Graph,
    before: ir.Node,
    value: ir.Value,
    scale: Array,
    number_type: NumberType,
    *,
    name: str,
    axis: int | None = None,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """A QuantizeLinear before a node; returns the codes, the scale and the zero point for its dequantizers."""
    factor = initializers.add(graph, f"{name}.scale", scale)
    # Without a zero point QuantizeLinear gives UINT8.
    zero = initializers.add(graph, f"{name}.zero_point", np.zeros(scale.shape, STORED[number_type]))
    stored_type = ir.TensorType(ir.DataType.from_numpy(STORED[number_type]))
    stored = ir.Value(name=f"{name}:0", type=stored_type, shape=value.shape)
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    graph.insert_before(
        before, ir.Node("", "QuantizeLinear", [value, factor, zero], attributes, outputs=[stored], name=name)
    )
    return stored, factor, zero


def quantize_for(
    graph: ir.Graph,
    readers: Sequence[tuple[ir.Node, int]],
    value: ir.Value,
    scale: Array,
    number_type: NumberType,
    *,
    name: str,
    names: Names,
) -> None:
    """An activation through a smaller type on its way to its readers, with one `scale` [] for the tensor.

    It is quantized once, and dequantized for each reader: ONNX Runtime takes a product for an integer one only where
    the DequantizeLinear before it has no other reader. `readers`, node and input index, come in graph order; `name`
    has a place `{}` for the operator.
    """
    stored, factor, zero = quantize(
        graph, readers[0][0], value, scale, number_type, name=names.unique(name.format("QuantizeLinear"))
    )
    for reader, index in readers:
        label = names.unique(name.format("DequantizeLinear"))
        output = ir.Value(name=f"{label}:0", type=value.type, shape=value.shape)
        dequantizer = ir.Node("", "DequantizeLinear", [stored, factor, zero], outputs=[output], name=label)
        graph.insert_before(reader, dequantizer)
        reader.replace_input_with(index, output)
