"""A graph as TensorRT 8.6 reads it: opset 17, no Shape of a part, Q/DQ around float weights.

Seen on the real library, or read in the source of its parser (onnx-tensorrt, 8.6-EA and 8.6-GA):

- `Shape` ignores `start` and `end` and gives the whole shape, silently: it becomes Shape and Slice.
- `Reduce*` but ReduceSum look for `axes` in their attributes alone, and would reduce all: hence opset 17.
- QuantizeLinear and DequantizeLinear want three inputs, float32 scales and zero points of as many zeros.
- An INT8 initializer behind a DequantizeLinear does not build; the same numbers as floats behind both nodes do.
- INT64 becomes INT32, in inputs and outputs of the engine as well: whoever runs it converts.
- InstanceNormalization is a plugin unless the parser's flag NATIVE_INSTANCENORM is set.

Precision is no part of the graph: builder flags and Q/DQ decide it. The numbers of an FP32 graph stay what they are.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtbuild.core.errors import ModelError
from trtbuild.graph import initializers, opset17
from trtbuild.graph.initializers import constant
from trtbuild.graph.naming import module_of, names_of
from trtbuild.graph.rewriting import Rewriting
from trtbuild.graph.tensorrt86_parser import refusal

_MOST_NAMED = 5
"""Problems to spell out; the others are counted."""
_NO_END = 2**31 - 1


def lower(model: ir.Model, *, plugins: Collection[str] = ()) -> None:
    """Rewrite a model for TensorRT 8.6, in place; names of nodes and modules stay.

    `plugins` are operators that loaded plugins take. Raises ModelError that names every node which its parser cannot
    take, with module path, operator and the reason.
    """
    if model.functions:
        common.InlinePass()(model)
    problems = opset17.lower(model)
    graph = model.graph
    for node in list(graph.all_nodes()):
        if node in problems or node.domain:
            continue
        if node.op_type == "Shape":
            _slice_shape(graph, node)
        elif node.op_type == "DequantizeLinear":
            _add_zero_point(graph, node)
            _quantize_floats(graph, node)
    for node in graph.all_nodes():
        if node not in problems and (reason := refusal(node, plugins)) is not None:
            problems[node] = reason
    if problems:
        raise _error(problems)
    for domain in [domain for domain in model.opset_imports if domain]:
        del model.opset_imports[domain]  # the parser takes the first opset that it finds for that of all operators
    initializers.drop_unused(graph)
    common.ClearMetadataAndDocStringPass()(model)


def _error(problems: dict[ir.Node, str]) -> ModelError:
    named = [
        f"{module_of(node) or 'the graph'}: node {node.name!r}, operator {node.op_type}: {reason}"
        for node, reason in problems.items()
    ]
    lines = named[:_MOST_NAMED] + ([f"and {more} more"] if (more := len(named) - _MOST_NAMED) > 0 else [])
    return ModelError(
        "TensorRT 8.6 cannot take this graph:\n  " + "\n  ".join(lines),
        hint="build for TensorRT 10 or later, or write these parts of the model with older operators",
    )


def _slice_shape(graph: ir.Graph, node: ir.Node) -> None:
    start, stop = node.attributes.get_int("start", 0), node.attributes.get("end")
    end = _NO_END if stop is None else stop.as_int()
    node.attributes.clear()
    rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else None
    if rank is not None:
        start, end = (min(max(bound + rank * (bound < 0), 0), rank) for bound in (start, end))
    if start == 0 and end in (rank, _NO_END):
        return
    write, x = Rewriting(graph, node), node.inputs[0]
    assert x is not None
    shape = write.op("Shape", x, dtype=ir.DataType.INT64)
    bounds = [
        write.constant(role, np.array([bound], np.int64))
        for role, bound in (("starts", start), ("ends", end), ("axes", 0))
    ]
    write.replace(write.op("Slice", shape, *bounds))


def _add_zero_point(graph: ir.Graph, node: ir.Node) -> None:
    codes, scale = node.inputs[0], node.inputs[1]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return
    if codes is None or codes.dtype != ir.DataType.INT8 or scale is None or scale.shape is None:
        return  # the parser's part to refuse
    node.resize_inputs(3)
    zeros = np.zeros(scale.shape.numpy(), np.int8)
    node.replace_input_with(2, initializers.add(graph, f"{node.name}.zero_point", zeros))


def _quantize_floats(graph: ir.Graph, node: ir.Node) -> None:
    """Codes that are constant as the floats they stand for, behind a QuantizeLinear that gives the same codes again."""
    codes, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if codes is None or scale is None or codes.dtype != ir.DataType.INT8 or scale.dtype != ir.DataType.FLOAT:
        return
    axis, factor = node.attributes.get_int("axis", 1), scale.numpy()
    if factor.size > 1:
        factor = factor.reshape([-1 if index == axis % len(codes.shape) else 1 for index in range(len(codes.shape))])
    floats = codes.numpy().astype(np.float32) * factor.reshape(factor.shape if factor.size > 1 else ())
    home = node.graph
    assert home is not None
    name = names_of(graph).unique(f"{module_of(node)}/QuantizeLinear_weight" if module_of(node) else f"{node.name}_q")
    stored = initializers.add(graph, f"{node.name}.floats", floats)
    output = ir.Value(name=f"{name}:0", type=ir.TensorType(ir.DataType.INT8), shape=ir.Shape(floats.shape))
    attributes = [ir.AttrInt64("axis", axis)] if factor.size > 1 else []
    quantizer = ir.Node("", "QuantizeLinear", [stored, *node.inputs[1:]], attributes, outputs=[output], name=name)
    home.insert_before(node, quantizer)
    node.replace_input_with(0, output)
