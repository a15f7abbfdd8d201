"""Activations that quantized products read: one QuantizeLinear for each tensor and type, however many read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from trtbuild.core.formats import NumberType
from trtbuild.graph import quantize
from trtbuild.graph.naming import Names


@dataclass(frozen=True)
class Operand:
    """One input of one node that is to be quantized."""

    node: ir.Node
    index: int
    number_type: NumberType
    amax: float
    dtype: np.dtype[Any]
    """The float type of the graph here."""
    module: str
    role: str = ""
    """What the operand is to its module, where the module has more than one: `query`, `softmax`."""


def quantize_operands(graph: ir.Graph, operands: Iterable[Operand], names: Names) -> None:
    """Put a QuantizeLinear behind each tensor and a DequantizeLinear before each reader, in place.

    Readers of one tensor that want the same type share the QuantizeLinear, with the greatest amax that any of them
    saw; it is named after the first of them in graph order.
    """
    order = {node: position for position, node in enumerate(graph)}
    readers: dict[tuple[ir.Value, NumberType], list[Operand]] = {}
    for operand in sorted(operands, key=lambda operand: order[operand.node]):
        value = operand.node.inputs[operand.index]
        assert value is not None
        readers.setdefault((value, operand.number_type), []).append(operand)
    for (value, number_type), group in readers.items():
        first = group[0]
        scale = quantize.scales(max(operand.amax for operand in group), number_type, first.dtype)
        quantize.quantize_for(
            graph,
            [(operand.node, operand.index) for operand in group],
            value,
            scale,
            number_type,
            name=f"{first.module}/{{}}" + (f"_{first.role}" if first.role else ""),
            names=names,
        )
