"""One node of a graph written as several."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array
from trtbuild.graph import initializers
from trtbuild.graph.naming import module_of, names_of


class Rewriting:
    """Writes the nodes that replace one node, under its module path, in its graph or subgraph."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        """`graph` is the main graph, which holds constants for all its subgraphs."""
        assert node.graph is not None
        self._constants, self._node = graph, node
        self._nodes: list[ir.Node] = []
        self._names = names_of(graph)
        self._prefix = f"{module}/" if (module := module_of(node)) else f"{node.name}_"

    def constant(self, role: str, array: Array) -> ir.Value:
        """A new initializer of the main graph."""
        return initializers.add(self._constants, f"{self._node.name}.{role}", array)

    def op(self, op_type: str, *inputs: ir.Value, dtype: ir.DataType | None = None, **attributes: Any) -> ir.Value:
        """One node; its output has the type of its first input where `dtype` does not say otherwise."""
        label = self._names.unique(f"{self._prefix}{op_type}")
        kind = inputs[0].type if dtype is None else ir.TensorType(dtype)
        output = ir.Value(name=f"{label}:0", type=kind)
        self._nodes.append(ir.node(op_type, list(inputs), attributes, outputs=[output], name=label))
        return output

    def replace(self, result: ir.Value) -> None:
        """Put the nodes where the node was; `result` takes over its first output."""
        old = self._node.outputs[0]
        result.type, result.shape = old.type or result.type, old.shape
        graph = self._node.graph
        assert graph is not None
        ir.convenience.replace_nodes_and_values(graph, self._node, [self._node], self._nodes, [old], [result])


def numbers(value: ir.Value | None) -> list[int] | None:
    """The integers of a constant, an initializer or what a Constant node gives; None for anything else."""
    if value is None:
        return None
    tensor = initializers.constant(value)
    node = value.producer()
    if tensor is None and node is not None and node.op_type == "Constant":
        tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in np.asarray(tensor.numpy()).reshape(-1)]
