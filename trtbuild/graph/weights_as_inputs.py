"""Large weights as inputs of a graph, so that a tool which copies the model again and again copies none of them.

ModelOpt's AutoCast is one: its copies of a model of 2 GB took 21 GB of memory and five minutes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtbuild.graph import initializers
from trtbuild.graph.initializers import constant

LEAST_BYTES = 1 << 20
"""Smaller weights stay: patterns of small ones, such as a norm's, are what tools look for."""

Weights = dict[str, ir.TensorProtocol]


def hide(model: ir.Model) -> Weights:
    """Make inputs of the FP32 weights of at least LEAST_BYTES, in place, and return them by name."""
    graph, hidden = model.graph, Weights()
    for name, value in list(graph.initializers.items()):
        weight = constant(value)
        if weight is None or weight.dtype != ir.DataType.FLOAT or weight.nbytes < LEAST_BYTES:
            continue
        hidden[name] = weight
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    return hidden


def show(model: ir.Model, hidden: Weights) -> None:
    """Make the inputs weights again, in place. A Cast to 16 bits that the tool put behind one becomes part of it, which
    is computed when the model is written."""
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in hidden]:
        name = value.name or ""
        graph.inputs.remove(value)
        for kind, casts in _casts(value).items():
            lowered = ir.Value(
                name=name if len(casts) == len(value.uses()) else f"{name}_{kind.name.lower()}",
                type=ir.TensorType(kind),
                shape=value.shape,
                const_value=_lowered(hidden[name], kind, name),
            )
            for cast in casts:
                ir.convenience.replace_all_uses_with(cast.outputs[0], lowered)
                graph.remove(cast, safe=True)
            graph.register_initializer(lowered)
        if value.uses():
            value.const_value = hidden[name]
            graph.register_initializer(value)
    initializers.drop_unused(graph)


def _casts(value: ir.Value) -> dict[ir.DataType, list[ir.Node]]:
    """The Casts behind an input, by what they cast to. Those that a tool wrote for the graph's output stay."""
    found: dict[ir.DataType, list[ir.Node]] = {}
    for node in {use.node: None for use in value.uses()}:
        if node.op_type == "Cast" and not node.outputs[0].is_graph_output():
            found.setdefault(ir.DataType(node.attributes["to"].as_int()), []).append(node)
    return found


def _lowered(weight: ir.TensorProtocol, kind: ir.DataType, name: str) -> ir.TensorProtocol:
    """The weight in 16 bits, rounded to nearest even; what exceeds FP16 becomes its greatest number."""

    def compute() -> ir.TensorProtocol:
        numbers = weight.numpy()
        if kind == ir.DataType.FLOAT16:
            numbers = np.clip(numbers, np.finfo(np.float16).min, np.finfo(np.float16).max)
        return ir.Tensor(numbers.astype(kind.numpy()), dtype=kind, name=name)

    return ir.LazyTensor(compute, dtype=kind, shape=ir.Shape(weight.shape.numpy()), name=name)
