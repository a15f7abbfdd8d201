"""Nodes that transformers' decoders compute in FP32 whatever the type of the model, found by what they compute.

The export is in FP32 and has lost the casts that said so. Angles of rotary embeddings: a position of 4097 is none in
FP16, and its cosine is that of another one. Root mean squares of norms: the square of 256 is infinity in FP16, and
residual streams have channels of several thousand.
"""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.graph.float_types import float_type

_SQUARED = ("Pow", "Mul")
_OF_A_MEAN = ("Add", "Sqrt", "Reciprocal", "Pow")


def always_float32(graph: ir.Graph) -> list[str]:
    """Names of those nodes, in the graph's order."""
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type in ("Cos", "Sin"):
            found |= {node, *_feeding(node)}
        elif node.op_type == "ReduceMean":
            found |= _normalized(node)
    return [node.name for node in graph if node in found and node.name]


def _feeding(node: ir.Node) -> set[ir.Node]:
    """Everything that computes a float which the node depends on."""
    found: set[ir.Node] = set()
    waiting = [node]
    while waiting:
        for value in waiting.pop().inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in found and float_type(value) is not None:
                found.add(producer)
                waiting.append(producer)
    return found


def _normalized(mean: ir.Node) -> set[ir.Node]:
    """A mean of squares and what follows of it, up to the product or quotient with the tensor itself."""
    square = mean.inputs[0].producer() if mean.inputs[0] is not None else None
    if square is None or square.op_type not in _SQUARED or _is_product_of_two(square):
        return set()
    found, node = {square, mean}, mean
    while len(uses := list(node.outputs[0].uses())) == 1:
        node = uses[0].node
        if node.op_type in _OF_A_MEAN:
            found.add(node)
        else:
            return found | {node} if node.op_type in ("Mul", "Div") else found
    return found


def _is_product_of_two(node: ir.Node) -> bool:
    return node.op_type == "Mul" and node.inputs[0] is not node.inputs[1]
