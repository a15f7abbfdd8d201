"""Constants of a graph: find, add, scale, drop. Weights are read one at a time and never copied for a rename."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from trtbuild.core.tensor_file import Array

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer, or None where the value is computed or fed by the caller."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def only_used_by(value: ir.Value, nodes: list[ir.Node]) -> bool:
    """Whether these nodes are all that reads a value, so that changing it changes nothing else."""
    return not value.is_graph_output() and all(consumer in nodes for consumer in value.consumers())


def add(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initializer; a taken name gets `_1`, `_2`, ..."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def scale_input(graph: ir.Graph, node: ir.Node, index: int, factor: Array) -> None:
    """Multiply the constant that a node reads at `index`. Other readers of the same constant keep the old one.

    `factor` broadcasts against the constant, as NumPy does; the product is computed in float32 and stored in the
    constant's own type.
    """
    value = node.inputs[index]
    tensor = constant(value)
    assert value is not None
    assert tensor is not None
    product = np.asarray(tensor.numpy().astype(np.float32) * factor).astype(tensor.numpy().dtype)
    if len(value.uses()) > 1 or value.is_graph_output():
        node.replace_input_with(index, add(graph, f"{value.name}_smoothed", product))
        return
    value.const_value = ir.tensor(product, name=value.name)
    value.shape = ir.Shape(product.shape)


def drop_unused(graph: ir.Graph) -> None:
    """Remove initializers that nothing reads."""
    for value in list(graph.initializers.values()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[value.name or ""]


def float_type(tensor: ir.TensorProtocol) -> np.dtype[Any]:
    """The NumPy type in which scales for this tensor are stored."""
    return np.dtype(tensor.dtype.numpy())


def is_unknown(dim: int | ir.SymbolicDim) -> bool:
    """Whether a dimension's length is unknown. AutoCast names all such dimensions `unk`, as if they were equal."""
    return not isinstance(dim, int) and (dim.value is None or str(dim.value) == "unk")
