"""The products of a graph, by node name: what an engine's layers are mapped back to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from trtbuild.core.values import Result
from trtbuild.graph.initializers import constant

_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_CARRIERS = {"QuantizeLinear", "DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze"}
"""What moves or rounds numbers and computes nothing."""
_AROUND_SOFTMAX = _CARRIERS | {"Add", "Sub", "Mul", "Div", "Where", "Clip"}


class Nodes(Result):
    """The products that an engine may run in one precision or another."""

    weights: list[str] = []
    """Products and convolutions with a constant weight."""
    tables: list[str] = []
    """Gathers of a quantized constant table."""
    attention: dict[str, tuple[str, str]] = {}
    """For each softmax between two products of computed tensors, those products."""
    order: list[str] = []
    """Every node with a module path, in graph order: a fused region is told by its first and last."""


def nodes_of(graph: ir.Graph) -> Nodes:
    """Every product of a graph, in graph order."""
    weights, tables, attention = [], [], {}
    for node in graph:
        name = node.name or ""
        if node.domain or not name:
            continue
        if node.op_type in _PRODUCTS and _has_weight(node):
            weights.append(name)
        elif node.op_type == "Gather" and _is_constant(node.inputs[0]) and constant(node.inputs[0]) is None:
            tables.append(name)
        elif node.op_type == "Softmax":
            scores = next(_products(node, _before), None)
            context = next(_products(node, _after), None)
            if scores and context:
                attention[name] = (scores, context)
    order = [node.name for node in graph if node.name and "/" in node.name]
    return Nodes(weights=weights, tables=tables, attention=attention, order=order)


def _has_weight(node: ir.Node) -> bool:
    return any(_is_constant(value) for value in node.inputs[:2])


def _is_constant(value: ir.Value | None) -> bool:
    while value is not None and (node := value.producer()) is not None and node.op_type in _CARRIERS:
        value = node.inputs[0]
    return constant(value) is not None


def _before(node: ir.Node) -> Iterator[ir.Node]:
    return (producer for value in node.inputs if value is not None and (producer := value.producer()) is not None)


def _after(node: ir.Node) -> Iterator[ir.Node]:
    return (usage.node for value in node.outputs for usage in value.uses())


def _products(start: ir.Node, step: Callable[[ir.Node], Iterator[ir.Node]]) -> Iterator[str]:
    """Names of the products of computed tensors next to a softmax, nearest first."""
    seen, frontier = {start}, [start]
    while frontier:
        reached = [node for each in frontier for node in step(each) if node not in seen]
        seen.update(reached)
        frontier = [node for node in reached if node.op_type in _AROUND_SOFTMAX]
        yield from (node.name or "" for node in reached if node.op_type == "MatMul" and not _has_weight(node))
