"""The graph that ModelOpt gets to see: a private copy, rewritten so that its traps do not matter.

ModelOpt infers shapes into the very file it is given, blocks the weight of a transposed Gemm along the wrong axis, and
joins the batches of an activation along their first axis, whatever their other lengths. Only numbers are read back
from the copy, so it may be as ugly as it likes; the nodes of modules keep their names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array, Tensors
from trtbuild.graph import initializers
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import output_axis


def use_matmul(graph: ir.Graph, names: Collection[str]) -> None:
    """Write each Gemm as MatMul and Add, weights as [in, out]; in place, the MatMul under the Gemm's name.

    None of them may transpose its input.
    """
    for node in _named(graph, names):
        if node.op_type != "Gemm":
            continue
        value, weight = node.inputs[0], constant(node.inputs[1])
        assert value is not None
        assert weight is not None
        array = weight.numpy() if output_axis(node) == 1 else weight.numpy().T
        alpha, beta = (np.asarray(_number(node, name), array.dtype) for name in ("alpha", "beta"))
        steps = _Steps(graph, node.name or "")
        result = steps.product(value, steps.constant(np.ascontiguousarray(array)))
        if alpha != 1:
            result = steps.add("Mul", result, steps.constant(alpha))
        if len(node.inputs) > 2 and (bias := node.inputs[2]) is not None:
            result = steps.add("Add", result, steps.add("Mul", bias, steps.constant(beta)) if beta != 1 else bias)
        steps.replace(node, result)


def use_rows(graph: ir.Graph, names: Collection[str]) -> None:
    """Give each MatMul its input as a matrix [rows, in], in place, so that batches of any shape have rows to join.

    MatMuls that read one tensor read one matrix.
    """
    matrices: dict[ir.Value, ir.Value] = {}
    for node in _named(graph, names):
        value, weight = node.inputs[0], node.inputs[1]
        assert value is not None
        assert weight is not None
        assert weight.shape is not None
        inputs, outputs = weight.shape.numpy()
        steps = _Steps(graph, node.name or "")
        if value not in matrices:
            matrices[value] = steps.add("Reshape", value, steps.integers(-1, inputs))
        shape = steps.add("Shape", value)
        lead = steps.add("Slice", shape, steps.integers(0), steps.integers(-1), steps.integers(0))
        full = steps.add("Concat", lead, steps.integers(outputs), axis=0)
        steps.replace(node, steps.add("Reshape", steps.product(matrices[value], weight), full))


def smooth(graph: ir.Graph, scales: Tensors) -> None:
    """Multiply the input of each MatMul by `scales[its name]` [in] and divide its weight's rows; in place."""
    for node in _named(graph, scales):
        scale, value, weight = scales[node.name or ""], node.inputs[0], constant(node.inputs[1])
        assert value is not None
        assert weight is not None
        kind = weight.numpy().dtype
        steps = _Steps(graph, node.name or "")
        divided = steps.constant((weight.numpy().astype(np.float32) / scale[:, None]).astype(kind))
        smoothed = steps.add("Mul", value, steps.constant(scale.astype(kind)))
        steps.replace(node, steps.product(smoothed, divided))


def _named(graph: ir.Graph, names: Collection[str]) -> list[ir.Node]:
    return [node for node in graph if node.name in names]


class _Steps:
    """Nodes that take the place of one, named apart from everything in the graph."""

    def __init__(self, graph: ir.Graph, name: str) -> None:
        self._graph, self._name = graph, name
        self._nodes: list[ir.Node] = []
        self._count = len(graph)

    def constant(self, array: Array) -> ir.Value:
        return initializers.add(self._graph, f"{self._name}/rehearsal", array)

    def integers(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def product(self, value: ir.Value, weight: ir.Value) -> ir.Value:
        """The MatMul that keeps the name."""
        return self._append("MatMul", [value, weight], [], self._name)

    def add(self, kind: str, *inputs: ir.Value, **integers: int) -> ir.Value:
        attributes = [ir.AttrInt64(name, number) for name, number in integers.items()]
        return self._append(kind, inputs, attributes, f"{self._name}/{kind}_rehearsal_{self._count + len(self._nodes)}")

    def replace(self, node: ir.Node, result: ir.Value) -> None:
        """Put the nodes in a node's place. The value that comes out keeps its name."""
        output = node.outputs[0]
        self._graph.insert_before(node, self._nodes)
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)
        result.name, result.type, result.shape = output.name, output.type, output.shape

    def _append(self, kind: str, inputs: Iterable[ir.Value], attributes: Iterable[ir.Attr], name: str) -> ir.Value:
        output = ir.Value(name=f"{self._name}/{kind}_rehearsal_{self._count + len(self._nodes)}:0")
        self._nodes.append(ir.Node("", kind, list(inputs), list(attributes), outputs=[output], name=name))
        return output


def _number(node: ir.Node, name: str) -> float:
    attribute = node.attributes.get(name)
    return 1.0 if attribute is None else attribute.as_float()
