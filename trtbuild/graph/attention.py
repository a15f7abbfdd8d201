"""Attention in a graph: two products of computed tensors with a softmax between them, and their quantization.

The compiler fuses `Q -> DQ -> product -> ... -> Softmax -> Q -> DQ -> product` into one kernel; without the pair behind
the softmax it falls back to half precision. A softmax ends at 1, which is all that FP8 needs to know. INT8 takes what
was observed: a head that spreads over 512 tokens gives 0.002 to each, and with a step of 1/127 all of that is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from trtbuild.core.formats import NumberType
from trtbuild.core.results import LayerCoverage
from trtbuild.graph.float_types import float_type
from trtbuild.graph.initializers import constant
from trtbuild.graph.naming import module_of
from trtbuild.graph.operands import Operand

_BEFORE_SOFTMAX = ("Add", "Sub", "Mul", "Div", "Where", "Cast")
"""What may stand between the first product and the softmax: scale, mask, bias, casts."""
_AFTER_SOFTMAX = ("Cast", "Where", "Dropout", "Identity")
"""What may stand between the softmax and the second product: exporters guard -inf rows by `Where(IsNaN(p), 0, p)`."""


@dataclass(eq=False)
class Attention:
    """One attention."""

    module: str
    scores: ir.Node
    """Query times key."""
    softmax: ir.Node
    context: ir.Node
    """Softmax times value."""
    number_type: NumberType | None = None
    """The type of its products; None where they stay in high precision."""
    value_factor: float = 1.0
    """How much the value tensor grew at most since its range was observed, through scales folded into it."""

    def operands(self, ranges: Mapping[str, float]) -> list[Operand] | str:
        """What to quantize, or in words why it cannot be."""
        assert self.number_type is not None
        dtype = float_type(self.scores.inputs[0])
        if dtype is None:
            return "the element type of its query is unknown"
        wanted = {
            "query": (self.scores, 0, 1.0),
            "key": (self.scores, 1, 1.0),
            "value": (self.context, 1, self.value_factor),
        }
        missing = [role for role, (node, index, _) in wanted.items() if f"{node.name}:{index}" not in ranges]
        if missing:
            return f"no range was observed for its {' and '.join(missing)}"
        greatest = 1.0
        if self.number_type == "int8":
            greatest = min(greatest, ranges.get(f"{self.context.name}:0", greatest))
        return [
            Operand(self.context, 0, self.number_type, greatest, dtype, self.module, "softmax"),
            *(
                Operand(
                    node, index, self.number_type, ranges[f"{node.name}:{index}"] * factor, dtype, self.module, role
                )
                for role, (node, index, factor) in wanted.items()
            ),
        ]


def find(graph: ir.Graph) -> list[Attention]:
    """Every attention of a graph, in graph order, each under the module path of its softmax.

    Where that path is taken, or there is none, the softmax's own name stands for it.
    """
    found: list[Attention] = []
    taken: set[str] = set()
    for node in graph:
        if node.op_type != "Softmax":
            continue
        scores, context = next(_products_before(node.inputs[0]), None), _product_after(node.outputs[0])
        if scores is None or context is None:
            continue
        module = module_of(node)
        if not module or module in taken:
            module = node.name or ""
        taken.add(module)
        found.append(Attention(module, scores, node, context))
    return found


def decide(
    graph: ir.Graph, found: list[Attention], number_type: NumberType, ranges: Mapping[str, float]
) -> list[LayerCoverage]:
    """Give each attention that can be quantized the type of its products, and say of each, or of an attention operator
    whose products are hidden inside, whether it can."""
    layers = []
    for entry in found:
        entry.number_type = number_type
        reason = operands if isinstance(operands := entry.operands(ranges), str) else ""
        entry.number_type = None if reason else number_type
        layers.append(_coverage(entry.module, number_type, reason))
    for node in graph:
        if node.op_type == "Attention" and not node.domain:
            reason = "its products are hidden in an Attention node: export it with opset 22 or older"
            layers.append(_coverage(module_of(node) or node.name or "", number_type, reason))
    return layers


def quantized_operands(found: list[Attention], ranges: Mapping[str, float]) -> Iterator[Operand]:
    """What `decide` chose to quantize, once smoothing has moved its scales."""
    for entry in found:
        if entry.number_type is not None and not isinstance(operands := entry.operands(ranges), str):
            yield from operands


def wanted_type(
    asked: Literal["auto", "high", "int8", "fp8"], activations: set[NumberType | None]
) -> NumberType | None:
    """The type of attention products: `auto` is FP8 where some layer has FP8 activations, else high precision."""
    if asked == "auto":
        return "fp8" if "fp8" in activations else None
    return None if asked == "high" else asked


def _coverage(module: str, number_type: NumberType, reason: str) -> LayerCoverage:
    return LayerCoverage(module=module, format=f"attention_{number_type}", inserted=not reason, reason=reason)


def _products_before(value: ir.Value | None) -> Iterator[ir.Node]:
    node = None if value is None else value.producer()
    if node is None:
        return
    if _multiplies_computed(node):
        yield node
    elif node.op_type in _BEFORE_SOFTMAX:
        for read in node.inputs:
            yield from _products_before(read)


def _product_after(value: ir.Value) -> ir.Node | None:
    for usage in value.uses():
        node = usage.node
        if _multiplies_computed(node) and usage.idx == 0:
            return node
        if node.op_type in _AFTER_SOFTMAX and (found := _product_after(node.outputs[0])) is not None:
            return found
    return None


def _multiplies_computed(node: ir.Node) -> bool:
    return (
        node.op_type == "MatMul"
        and not node.domain
        and all(value is not None and constant(value) is None for value in node.inputs)
    )
