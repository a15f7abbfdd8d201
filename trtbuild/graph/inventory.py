"""The modules of a graph that have weights: how large these are, and which modules read one tensor."""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import products


def weight_sizes(graph: ir.Graph) -> dict[str, int]:
    """Numbers in each module's constant weight, by module path."""
    weights = {module: constant(nodes[0].inputs[1]) for module, nodes in products(graph).items()}
    return {module: int(weight.size) for module, weight in weights.items() if weight is not None}


def together(graph: ir.Graph) -> list[list[str]]:
    """Modules in groups that read a common tensor, such as query, key and value; every module is in one group.

    Quantized alike, a group shares one QuantizeLinear, its smoothing can fold into the norm before it, and TensorRT can
    multiply it as one matrix.
    """
    groups: list[tuple[set[ir.Value | None], list[str]]] = []
    sizes = weight_sizes(graph)
    for module, nodes in products(graph).items():
        if module not in sizes:
            continue
        values, members = {node.inputs[0] for node in nodes}, [module]
        for group in [group for group in groups if group[0] & values]:
            groups.remove(group)
            values, members = values | group[0], group[1] + members
        groups.append((values, members))
    return [members for _, members in groups]
