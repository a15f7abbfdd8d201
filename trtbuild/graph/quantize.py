"""QuantizeLinear and DequantizeLinear as ONNX spells them: symmetric INT8, codes from -127 to 127."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers

GREATEST_CODE = 127
"""-128 stays unused, so that negation never overflows and zero is exact."""


def scales(amax: Array, dtype: np.dtype[Any]) -> Array:
    """amax / 127 in the graph's type, never zero: a dead channel gets a tiny scale and codes of zero."""
    least = 2.0**-20 if dtype == np.float16 else 2.0**-100
    return np.asarray(np.maximum(amax / np.float32(GREATEST_CODE), least)).astype(dtype)


def codes(matrix: Array, scale: Array) -> Array:
    """round(matrix / scale), half to even, clipped to [-127, 127]. Uses the scale as stored, after its rounding."""
    return np.clip(np.rint(matrix / scale.astype(np.float32)), -GREATEST_CODE, GREATEST_CODE).astype(np.int8)


def dequantize(graph: ir.Graph, before: ir.Node, values: ir.Value, scale: Array, *, axis: int, name: str) -> ir.Value:
    """A DequantizeLinear with one scale for each channel along `axis`; its zero point is left out, hence zero."""
    factor = initializers.add(graph, f"{name}.scale", scale)
    output = ir.Value(name=f"{name}:0", type=ir.TensorType(ir.DataType.from_numpy(scale.dtype)), shape=values.shape)
    attributes = [ir.AttrInt64("axis", axis)]
    graph.insert_before(
        before, ir.Node("", "DequantizeLinear", [values, factor], attributes, outputs=[output], name=name)
    )
    return output


def quantize_for(graph: ir.Graph, readers: Sequence[ir.Node], value: ir.Value, scale: Array, *, module: str) -> None:
    """An activation through INT8 on its way to its readers' first input, with one `scale` [] for the tensor.

    It is quantized once, and dequantized for each reader: ONNX Runtime takes a product for an integer one only where
    the DequantizeLinear before it has no other reader. `readers` come in graph order.
    """
    factor = initializers.add(graph, f"{module}.input_scale", scale)
    # Without a zero point QuantizeLinear gives UINT8.
    zero = initializers.add(graph, f"{module}.input_zero_point", np.zeros((), np.int8))
    stored = ir.Value(name=f"{module}/QuantizeLinear:0", type=ir.TensorType(ir.DataType.INT8), shape=value.shape)
    quantizer = ir.Node("", "QuantizeLinear", [value, factor, zero], outputs=[stored], name=f"{module}/QuantizeLinear")
    graph.insert_before(readers[0], quantizer)
    for number, reader in enumerate(readers):
        name = f"{module}/DequantizeLinear" + (f"_{number}" if number else "")
        output = ir.Value(name=f"{name}:0", type=value.type, shape=value.shape)
        dequantizer = ir.Node("", "DequantizeLinear", [stored, factor, zero], outputs=[output], name=name)
        graph.insert_before(reader, dequantizer)
        reader.replace_input_with(0, output)
