"""Residual additions: the operand that skips the layers goes through integers as well.

A compiler that fuses `product + bias + residual` into one integer kernel reads the residual as codes; one that stays in
floats splits the kernel or converts on the way. The operand that a product writes stays in floats: it never leaves the
kernel's accumulators. That is how ModelOpt places Q/DQ around additions (`build_non_residual_input_map`), too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from trtbuild.core.formats import NumberType
from trtbuild.graph.float_types import float_type
from trtbuild.graph.initializers import constant
from trtbuild.graph.naming import module_of
from trtbuild.graph.operands import Operand

_FUSED = ("Add", "Mul", "BatchNormalization", "Identity", "Cast")
"""What a compiler fuses behind a product, with constants as the other inputs: bias, scale, batch norm."""


def operands(
    graph: ir.Graph, products: Iterable[ir.Node], ranges: Mapping[str, float], number_type: NumberType
) -> Iterator[Operand]:
    """The skipping operand of each residual addition that one of `products`, the quantized ones, writes into.

    `ranges` holds greatest magnitudes by `<node name>:<input index>`; an addition without one there stays as it is.
    """
    quantized, order = set(products), {node: position for position, node in enumerate(graph)}
    for node in graph:
        index = _skipping(node, quantized, order)
        if index is None or (greatest := ranges.get(f"{node.name}:{index}")) is None:
            continue
        dtype = float_type(node.inputs[index])
        if dtype is not None:
            yield Operand(node, index, number_type, greatest, dtype, module_of(node) or str(node.name), "residual")


def _skipping(node: ir.Node, quantized: set[ir.Node], order: Mapping[ir.Node, int]) -> int | None:
    """The input of an addition that comes past the layers; None where it is no residual addition."""
    if node.op_type != "Add" or node.domain or len(node.inputs) != 2:
        return None
    written = [_product(value, quantized) for value in node.inputs]
    if written[0] is None and written[1] is None:
        return None
    ends = [None if value is None else value.producer() for value in node.inputs]
    if any(value is None or constant(value) is not None for value in node.inputs):
        return None
    if written[0] is not None and written[1] is not None:
        # Two layers meet, as where a block changes the number of channels: the shorter way is the residual.
        far = [_ancestors(end) for end in ends]
        common = max(far[0].keys() & far[1].keys(), key=order.__getitem__, default=None)
        if common is None or written[0] is written[1]:
            return None
        return 0 if far[0][common] < far[1][common] else 1
    branch = 0 if written[0] is not None else 1
    # A layer's output beside something computed from it: no layer is skipped.
    return None if written[branch] in _ancestors(ends[1 - branch]) else 1 - branch


def _product(value: ir.Value | None, quantized: set[ir.Node]) -> ir.Node | None:
    """The product that writes a tensor for one reader, with nothing but fused nodes between."""
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None or node in quantized:
            return node
        if node.op_type not in _FUSED:
            return None
        computed = [read for read in node.inputs if read is not None and constant(read) is None]
        if len(computed) != 1:
            return None
        value = computed[0]
    return None


def _ancestors(node: ir.Node | None) -> dict[ir.Node, int]:
    """A node and all that it is computed from, each with its distance."""
    found: dict[ir.Node, int] = {}
    waiting = [] if node is None else [(node, 0)]
    for each, distance in waiting:
        if each not in found:
            found[each] = distance
            waiting += [(before, distance + 1) for before in each.predecessors()]
    return found
