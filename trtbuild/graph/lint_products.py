"""Lint of what reads and feeds Q/DQ pairs: products, the axes they sum over, and the types that meet in a node."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trtbuild.graph.element_types import FLOATS, Types
from trtbuild.graph.lint_pairs import Pair, constant_behind
from trtbuild.graph.lint_rules import LintFinding, finding

PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
_ONE_TYPE = {*PRODUCTS, "Add", "Sub", "Mul", "Div", "Concat", "Max", "Min", "Sum", "PRelu"}
"""Operators whose float inputs must have one type [ONNX operator schemas]."""
_BETWEEN = {"Cast", "Mul", "Div", "Transpose"}
"""What blocks the fusion of a DequantizeLinear with its product [Model-Optimizer 1289]; not of FP4's, which compute in
FP32 and always stand behind a Cast and a Transpose [Model-Optimizer nvfp4_exporter.py]."""


def lint_product(node: ir.Node, types: Types) -> Iterator[LintFinding]:
    """Which of a product's inputs are quantized, along which axes, and what stands between."""
    name = node.name or (node.outputs[0].name or node.op_type)
    data, weight = (_dequantizer(value) for value in node.inputs[:2])
    for place, (value, found) in enumerate(zip(node.inputs[:2], (data, weight), strict=True)):
        if found is None and (blocker := _blocker(value)) is not None and not _of_fp4(value, types):
            between = f"{blocker.op_type} {blocker.name or ''}".strip()
            yield finding(name, "Q008", f"{between} stands between its input {place} and the DequantizeLinear")
        if found is not None:
            yield from _axis(node, place, Pair(found, types))
    if data is not None and weight is None and _blocker(node.inputs[1]) is None:
        yield finding(name, "Q009", "its first input is quantized and its second is not")
    elif weight is not None and data is None and _blocker(node.inputs[0]) is None:
        pair = Pair(weight, types)
        if not pair.of_constant:
            yield finding(name, "Q009", "its second input is a quantized activation and its first is not quantized")


def lint_types(node: ir.Node, types: Types) -> Iterator[LintFinding]:
    """Whether the floats that meet in a node have one type."""
    if node.op_type not in _ONE_TYPE or node.domain not in ("", "ai.onnx"):
        return
    met = [types[value] for value in node.inputs if value is not None and types.get(value) in FLOATS]
    if len(set(met)) > 1:
        name = node.name or (node.outputs[0].name or node.op_type)
        yield finding(name, "Q012", f"its inputs are {' and '.join(dict.fromkeys(map(str, met)))}")


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _blocker(value: ir.Value | None) -> ir.Node | None:
    """The node between a product and a DequantizeLinear, where there are only such."""
    first = producer = value.producer() if value is not None else None
    while producer is not None and producer.op_type in _BETWEEN:
        inputs = [entry for entry in producer.inputs if entry is not None and constant_behind(entry) is None]
        inputs = inputs or [entry for entry in producer.inputs if entry is not None]
        producer = inputs[0].producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            return first
    return None


def _of_fp4(value: ir.Value | None, types: Types) -> bool:
    """Whether a product's input is FP4 behind nodes that are known to fuse."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Cast", "Transpose") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    return types.get(node.inputs[0]) == ir.DataType.FLOAT4E2M1


def _axis(node: ir.Node, place: int, pair: Pair) -> Iterator[LintFinding]:
    """Channels must be of an axis that the product keeps, blocks of the one it sums over."""
    if pair.scale is None or pair.scale.size <= 1 or not pair.of_constant or pair.shape is None:
        return
    summed = _summed_axis(node, place, len(pair.shape))
    if summed is None or not 0 <= pair.axis < len(pair.shape):
        return
    if pair.blocked and pair.axis != summed:
        yield finding(pair.name, "Q007", f"its blocks run along axis {pair.axis}, and the product sums over {summed}")
    if not pair.blocked and pair.axis == summed:
        yield finding(pair.name, "Q007", f"its channels are of axis {summed}, over which the product sums")


def _summed_axis(node: ir.Node, place: int, rank: int) -> int | None:
    """The axis of input `place` that disappears in the product; None where the rank does not fit the operator."""
    if node.op_type in ("Conv", "ConvTranspose"):
        return (1 if node.op_type == "Conv" else 0) if place == 1 else None
    if rank < 2:
        return None
    if node.op_type == "MatMul":
        return rank - 1 if place == 0 else rank - 2
    flag = node.attributes.get("transA" if place == 0 else "transB")
    transposed = flag is not None and bool(flag.as_int())
    return int(transposed) if place == 1 else 1 - int(transposed)
